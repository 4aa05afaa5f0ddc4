"""Rates: how fast a gateway's answers come, over the last moments. No I/O."""

from collections import deque
from collections.abc import Iterable

from engine.scheduler.entry import Entry

WINDOW_S = 10.0


class Rates:
    """``note`` the tokens taken so far, again and again; then ask."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, num_tokens: int, now: float) -> None:
        """``num_tokens``: all that have ever come."""
        self._seen.append((now, num_tokens))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()

    def output_tokens_per_s(self) -> float:
        """Over the window, or over what there is of it."""
        if len(self._seen) < 2:
            return 0.0
        (began, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - began)


def mean_ttft_s(entries: Iterable[Entry], now: float) -> float | None:
    """Mean seconds to the first token, of those that came within the window; None without any."""
    found = [
        entry.first_token_at - entry.arrived
        for entry in entries
        if entry.first_token_at is not None and now - entry.first_token_at <= WINDOW_S
    ]
    return sum(found) / len(found) if found else None
