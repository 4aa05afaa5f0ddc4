"""Ranking: the pools that are there, the roomiest first, everywhere and on each host. No I/O.

They are kept in order as they speak, so an answer to who asks costs the same in any cluster.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from engine.protocol import Heartbeat

Roominess = tuple[int, int]
"""less its lendable blocks, and its number: smaller for roomier ones"""


class Ranking:
    """``heard`` what each says, in order of time; ``until`` now, before anything is asked."""

    def __init__(self, stale_s: float) -> None:
        """Who is silent for longer is not there."""
        self._stale_s = stale_s
        self._heard_at: dict[int, float] = {}
        """in order of time"""
        self._beats: dict[int, Heartbeat] = {}
        self._ranked: list[Roominess] = []
        self._on_host: dict[str, list[Roominess]] = {}
        self.num_lend_cap = 0
        """blocks that all of them would ever lend"""

    def heard(self, beat: Heartbeat, now: float) -> None:
        known = self._beats.get(beat.instance)
        if known is not None and _place(known) == _place(beat):
            del self._heard_at[beat.instance]
            self._heard_at[beat.instance], self._beats[beat.instance] = now, beat
            return
        self._remove(beat.instance)
        self._heard_at[beat.instance], self._beats[beat.instance] = now, beat
        self.num_lend_cap += beat.num_lend_cap
        insort(self._ranked, _roominess(beat))
        insort(self._on_host.setdefault(beat.host, []), _roominess(beat))

    def until(self, now: float) -> list[int]:
        """Forget those who were not heard of for too long; returns who they are."""
        limit, silent = now - self._stale_s, []
        for instance, at in self._heard_at.items():
            if at >= limit:
                break
            silent.append(instance)
        for instance in silent:
            self._remove(instance)
        return silent

    def get(self, instance: int) -> Heartbeat | None:
        """What it said last, if it is there."""
        return self._beats.get(instance)

    def best(self, host: str, most: int, wanted: Callable[[Heartbeat], bool]) -> list[Heartbeat]:
        """At most so many of the wanted ones: those on the host first, then the roomiest."""
        found: list[Heartbeat] = []
        for beat in self._in_order(host):
            if len(found) >= most:
                break
            if wanted(beat):
                found.append(beat)
        return found

    def _in_order(self, host: str) -> Iterator[Heartbeat]:
        for _, instance in self._on_host.get(host, ()):
            yield self._beats[instance]
        for _, instance in self._ranked:
            if self._beats[instance].host != host:
                yield self._beats[instance]

    def _remove(self, instance: int) -> None:
        beat = self._beats.pop(instance, None)
        if beat is None:
            return
        del self._heard_at[instance]
        self.num_lend_cap -= beat.num_lend_cap
        near = self._on_host[beat.host]
        for ranked in (self._ranked, near):
            del ranked[bisect_left(ranked, _roominess(beat))]
        if not near:
            del self._on_host[beat.host]


def _roominess(beat: Heartbeat) -> Roominess:
    return (-beat.num_lendable, beat.instance)


def _place(beat: Heartbeat) -> tuple[int, int, str]:
    """All that its place depends on, and what it adds to the sum."""
    return (beat.num_lendable, beat.num_lend_cap, beat.host)
