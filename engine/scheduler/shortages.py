"""Shortages: whose requests found too little to borrow, and what is held for the earliest. No I/O.

Who wants much, all of it or nothing, waits until so much is free at once. Those who came later and
want little would take it piece by piece, for ever: so while the earliest request of all is short,
later ones are offered only what it leaves. What runs is not disturbed. Not even the whole of what
others lend may do, because their own requests come first; so memory is held for a while, then for
as long not.

Who is short pauses between two tries, longer each time; so it is told when there is enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.core import Seniority
from engine.protocol import BorrowQuery, Heartbeat

PATIENCE_S = 5
"""who is short for less time is not held anything for"""
HOLD_S = 20
"""how long memory is held, and then not"""
FORGET_S = 10
"""who has not asked again for so long is no longer short; pauses between two tries are shorter"""
SAME_S = 1.0
"""ages that differ by less, as told in two queries, may be of one request"""


@dataclass(slots=True)
class _Short:
    seniority: Seniority
    num_blocks: int
    num_own: int
    since: float
    asked_at: float
    is_told: bool = False
    """there was enough since it asked, and it knows"""

    def is_held_for(self, now: float) -> bool:
        waited = now - self.since
        return waited >= PATIENCE_S and int((waited - PATIENCE_S) // HOLD_S) % 2 == 0


class Shortages:
    """The earliest request of each instance that found too little."""

    def __init__(self) -> None:
        self._short: dict[int, _Short] = {}

    @property
    def state(self) -> list[object]:
        """To be compared with another's."""
        return [(i, one.seniority, one.num_blocks, one.since) for i, one in self._short.items()]

    @property
    def has_any(self) -> bool:
        """Somebody was short lately, or before."""
        return bool(self._short)

    def left_for(
        self, query: BorrowQuery, creditors: Sequence[Heartbeat], now: float
    ) -> tuple[dict[int, int], bool]:
        """Instance -> blocks of what it lends that are offered to this query; and whether memory
        is held for this request. Who takes what there is is never short.

        ``creditors``: the best first. What is held is held at the last ones, and all of the
        memory of the instance whose request it is held for.
        """
        seniority = (query.priority, now - query.age_s)
        lendable, is_held = {one.instance: one.num_lendable for one in creditors}, False
        first = self._first(now)
        if first is not None and self._short[first].is_held_for(now):
            short = self._short[first]
            is_held = first == query.instance and _is_same(short.seniority, seniority)
            if short.seniority < (seniority[0], seniority[1] - SAME_S):
                _hold(lendable, first, short.num_blocks)
        if not query.part:
            self._note(query, seniority, sum(lendable.values()), now)
        return lendable, is_held

    def relieved(
        self, lendable: Mapping[int, int], free: Mapping[int, int], now: float
    ) -> list[int]:
        """Instances whose request might find enough now, each told once, the earliest first.

        ``lendable``, ``free``: by instance. What the earlier of them want is not there twice.
        """
        found, taken, total = [], 0, sum(lendable.values())
        short = sorted(self._short.items(), key=lambda item: (item[1].seniority, item[0]))
        for instance, one in short:
            if now - one.asked_at >= FORGET_S:
                continue
            there = total - lendable.get(instance, 0) + free.get(instance, 0) - taken
            if there < one.num_blocks + one.num_own:
                continue
            taken += one.num_blocks + one.num_own
            if not one.is_told:
                one.is_told = True
                found.append(instance)
        return found

    def _first(self, now: float) -> int | None:
        """The instance of the earliest of those who are short."""
        alive = [i for i, one in self._short.items() if now - one.asked_at < FORGET_S]
        return min(alive, key=lambda i: (self._short[i].seniority, i), default=None)

    def _note(self, query: BorrowQuery, seniority: Seniority, num_offered: int, now: float) -> None:
        known = self._short.get(query.instance)
        if known is not None and now - known.asked_at >= FORGET_S:
            known = None
        is_same = known is not None and _is_same(known.seniority, seniority)
        if query.num_blocks <= num_offered:
            if is_same:
                del self._short[query.instance]
        elif known is None or is_same or seniority < known.seniority:
            since = known.since if known is not None and is_same else now
            seniority = known.seniority if known is not None and is_same else seniority
            short = _Short(seniority, query.num_blocks, query.num_own, since, now)
            self._short[query.instance] = short


def _hold(lendable: dict[int, int], home: int, num_blocks: int) -> None:
    """Take what is held for a request of ``home`` off what is offered."""
    lendable.pop(home, None)
    for instance in reversed(lendable):
        kept = min(num_blocks, lendable[instance])
        lendable[instance] -= kept
        num_blocks -= kept


def _is_same(one: Seniority, other: Seniority) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) < SAME_S
