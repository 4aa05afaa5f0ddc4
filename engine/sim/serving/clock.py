"""Clock: virtual time; what happens at the same moment happens in the order in which it was set."""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

Action = Callable[[], None]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._events: list[tuple[float, int, Action]] = []
        self._is_over = False

    def at(self, time: float, action: Action) -> None:
        """Never before now."""
        self.num_events = number = self.num_events + 1
        heappush(self._events, (time if time > self.now else self.now, number, action))

    def after(self, seconds: float, action: Action) -> None:
        self.at(self.now + seconds, action)

    def every(self, seconds: float, first: float, action: Action) -> None:
        def again() -> None:
            action()
            self.after(seconds, again)

        self.at(first, again)

    def run(self, limit: float = inf) -> None:
        """Until it is stopped, nothing is left to happen, or the time is ``limit``."""
        events, self._is_over = self._events, False
        while events and events[0][0] <= limit and not self._is_over:
            self.now, _, action = heappop(events)
            action()

    def stop(self) -> None:
        """What happens now is the last."""
        self._is_over = True
