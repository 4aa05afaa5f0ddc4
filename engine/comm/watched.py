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
        *((name, ctypes.c_int64) for name in ("num_words", "num_sockets", "spin_ns", "most_ns")),
    )


class Words:
    """Words of rings."""

    def __init__(self, addresses: tuple[int, ...]) -> None:
        self.addresses = addresses
        array = ctypes.c_uint64 * len(addresses)
        self._addresses, self._values = array(*addresses), array()
        self.watched = Watched(
            addresses=ctypes.addressof(self._addresses),
            values=ctypes.addressof(self._values),
            num_words=len(addresses),
        )

    def seen(self, values: tuple[int, ...]) -> None:
        """What they were when they were last looked at."""
        self._values[:] = list(values)


class Sockets:
    """File descriptors and the events that matter."""

    def __init__(self, events: dict[int, int]) -> None:
        self.events = events
        self._fds = (PollFd * len(events))(*(PollFd(*each) for each in events.items()))
        self.watched = Watched(sockets=ctypes.addressof(self._fds), num_sockets=len(events))
