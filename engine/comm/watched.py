"""Watched: what a transport looks at again and again before it sleeps, as the native library does.

Words in memory that others write, or sockets.
"""

import ctypes


class PollFd(ctypes.Structure):
    """The kernel's ``struct pollfd``."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Watched(ctypes.Structure):
    """The same fields as Watched in native/watched.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("addresses", "values", "sockets")),
        *((name, ctypes.c_int64) for name in ("num_words", "num_sockets", "num_bells")),
        *((name, ctypes.c_int64) for name in ("spin_ns", "least_spin_ns", "most_spin_ns")),
        ("most_ns", ctypes.c_int64),
    )


class Watching:
    """A Watched and the memory it points to, for as long as the same is watched."""

    def __init__(
        self, addresses: tuple[int, ...], events: dict[int, int], num_bells: int = 0
    ) -> None:
        """``events`` are those that matter of each file descriptor; the first belong to words."""
        self._what = addresses, events
        array = ctypes.c_uint64 * len(addresses)
        self._addresses, self._values = array(*addresses), array()
        self._fds = (PollFd * len(events))(*(PollFd(*each) for each in events.items()))
        self.watched = Watched(
            addresses=ctypes.addressof(self._addresses),
            values=ctypes.addressof(self._values),
            sockets=ctypes.addressof(self._fds),
            num_words=len(addresses),
            num_sockets=len(events),
            num_bells=num_bells,
        )

    def is_of(self, addresses: tuple[int, ...], events: dict[int, int]) -> bool:
        return self._what == (addresses, events)

    def seen(self, values: tuple[int, ...]) -> None:
        """What the words were when they were last looked at."""
        self._values[:] = list(values)
