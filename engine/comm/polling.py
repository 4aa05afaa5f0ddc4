"""A set of file descriptors to poll, rebuilt only where it differs from the last call's."""

import select

READ = select.POLLIN
WRITE = select.POLLOUT


class Poller:
    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, int] = {}

    def wait(self, watched: dict[int, int], timeout_s: float) -> list[tuple[int, int]]:
        """(descriptor, events) of those with news; a timeout is rounded up to a millisecond."""
        if watched != self._watched:
            for fd in self._watched.keys() - watched.keys():
                self._poll.unregister(fd)
            for fd, events in watched.items():
                self._poll.register(fd, events)
            self._watched = watched
        return self._poll.poll(timeout_s * 1000)
