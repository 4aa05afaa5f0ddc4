"""Shortages: whose requests found too little to borrow, and what is held for the earliest. No I/O.

Who wants much, all of it or nothing, waits until so much is free at once. Those who came later and
want little would take it piece by piece, for ever: so while an earlier request is short, later ones
are offered only what it leaves. What runs is not disturbed. Not even the whole of what others lend
may do, because their own requests come first; so memory is held for a while, then for as long not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import BorrowQuery, Heartbeat

Rank = tuple[int, float]
"""(priority, when the request came): the smaller comes first"""
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
    rank: Rank
    num_blocks: int
    since: float
    asked_at: float

    def is_held_for(self, now: float) -> bool:
        waited = now - self.since
        return (
            now - self.asked_at < FORGET_S
            and waited >= PATIENCE_S
            and int((waited - PATIENCE_S) // HOLD_S) % 2 == 0
        )


class Shortages:
    """The earliest request of each instance that found too little."""

    def __init__(self) -> None:
        self._short: dict[int, _Short] = {}

    @property
    def state(self) -> list[object]:
        """To be compared with another's."""
        return [(i, one.rank, one.num_blocks, one.since) for i, one in self._short.items()]

    def left_for(
        self, query: BorrowQuery, creditors: Sequence[Heartbeat], now: float
    ) -> dict[int, int]:
        """Instance -> blocks of what it lends that are offered to this query.

        ``creditors``: the best first. What is held is held at the last ones, and all of the
        memory of an instance whose own earlier request is short.
        """
        rank = (query.priority, now - query.age_s)
        earlier = {
            instance: one
            for instance, one in self._short.items()
            if one.rank < (rank[0], rank[1] - SAME_S) and one.is_held_for(now)
        }
        lendable = {
            one.instance: one.num_lendable for one in creditors if one.instance not in earlier
        }
        held = sum(one.num_blocks for one in earlier.values())
        for instance in reversed(lendable):
            kept = min(held, lendable[instance])
            lendable[instance] -= kept
            held -= kept
        self._note(query, rank, sum(lendable.values()), now)
        return lendable

    def _note(self, query: BorrowQuery, rank: Rank, num_offered: int, now: float) -> None:
        known = self._short.get(query.instance)
        if known is not None and now - known.asked_at >= FORGET_S:
            known = None
        is_same = known is not None and _is_same(known.rank, rank)
        if query.num_blocks <= num_offered:
            if is_same:
                del self._short[query.instance]
        elif known is not None and is_same:
            known.num_blocks, known.asked_at = query.num_blocks, now
        elif known is None or rank < known.rank:
            self._short[query.instance] = _Short(rank, query.num_blocks, now, now)


def _is_same(one: Rank, other: Rank) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) < SAME_S
