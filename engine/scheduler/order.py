"""Order: which of those who wait for memory is placed next. No I/O.

Those that lost blocks first, then by priority those that hold some already, then one of each tenant
in turn, the oldest first. While the first pauses, all behind it wait; but one that can only run
with memory of others is passed, unless the planner holds memory for it: that is for one request of
the whole cluster at a time, the earliest, so that each gets its turn.
"""

from collections.abc import Sequence as Many

from engine.scheduler.sequence import Sequence
from engine.scheduler.turns import Turns


def next_of(waiting: Many[Sequence], turns: Turns, now: float) -> Sequence | None:
    """Who is placed now; None while nobody is, or the first pauses."""
    able = [one for one in waiting if one.not_before <= now or not one.may_be_passed]

    def rank(one: Sequence) -> tuple[bool, int, bool, tuple[int, tuple[int, float, int]]]:
        # what it holds is of no use to anybody before it goes on: then it needs no turn
        turn = (0, one.seniority) if one.table else turns.of(one)
        return not one.holes, one.request.priority, not one.table, turn

    first = min(able, key=rank, default=None)
    return first if first is not None and first.not_before <= now else None
