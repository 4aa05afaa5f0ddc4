"""History: what a gateway's answers gave in each second of the last minutes. No I/O, no clock.

Latencies are counted in classes a fiftieth wide: their quantiles are that exact, whatever comes.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, floor, log
from typing import Any

from engine.scheduler.entry import Entry

KEEP_S = 300
WINDOW_S = 15
"""a second's quantiles are of all values of so many seconds up to it"""
WIDTH = log(1.02)
QUANTILES = (0.5, 0.99)

Classes = Counter[int]


@dataclass(slots=True)
class _Second:
    tokens: Counter[int] = field(default_factory=Counter)
    """by instance"""
    ttft: Classes = field(default_factory=Counter)
    gap: Classes = field(default_factory=Counter)


class History:
    """``note`` tokens as they come; ``body`` tells the seconds that are over."""

    def __init__(self, now: float, unix: float) -> None:
        """``unix``: what the calendar's clock shows at ``now``, both in seconds."""
        self._shift = round(unix - now)
        self._at = floor(now)
        self._window = deque([_Second()], WINDOW_S)
        """the last of them is under way"""
        self._told: deque[dict[str, Any]] = deque(maxlen=KEEP_S)
        self._last: dict[str, float] = {}
        """request -> when its newest token came"""

    def note(self, entry: Entry, number: int, now: float) -> None:
        """The newest ``number`` tokens of this request came."""
        self._go_on(now)
        second, name = self._window[-1], entry.request.request_id
        if entry.instance is not None:
            second.tokens[entry.instance] += number
        if name in self._last:
            second.gap[_class_of((now - self._last[name]) / number)] += number
        elif number == len(entry.token_ids):  # else it began at an earlier gateway
            second.ttft[_class_of(now - entry.arrived)] += 1
        self._last[name] = now

    def forget(self, request_id: str) -> None:
        """No more of it will come."""
        self._last.pop(request_id, None)

    def body(self, since: int, now: float) -> dict[str, Any]:
        """The seconds behind ``since``, in the calendar's count, as ``/cluster/history`` has them:
        tokens by instance, and [median, 99 %] of the latencies, None where there were none.
        """
        self._go_on(now)
        seconds = [one for one in self._told if one["second"] > since]
        return {"now": self._at + self._shift, "window_s": WINDOW_S, "seconds": seconds}

    def _go_on(self, now: float) -> None:
        """Tell the seconds that are over."""
        self._at = max(self._at, floor(now) - KEEP_S - WINDOW_S)
        while self._at < floor(now):
            second = self._window[-1]
            self._told.append(
                {
                    "second": self._at + self._shift,
                    "tokens": {str(one): second.tokens[one] for one in sorted(second.tokens)},
                    "ttft_s": _quantiles(one.ttft for one in self._window),
                    "gap_s": _quantiles(one.gap for one in self._window),
                }
            )
            self._window.append(_Second())
            self._at += 1


def _class_of(seconds: float) -> int:
    return round(log(max(seconds, 1e-6)) / WIDTH)


def _quantiles(parts: Iterable[Classes]) -> list[float] | None:
    """For each quantile the smallest value that so large a share of all does not exceed."""
    counts: Classes = Counter()
    for part in parts:
        counts.update(part)
    ordered, passed = [], 0
    for value, number in sorted(counts.items()):
        passed += number
        ordered.append((value, passed))
    if not ordered:
        return None
    places = (next(value for value, upto in ordered if upto >= q * passed) for q in QUANTILES)
    return [float(f"{exp(value * WIDTH):.4g}") for value in places]
