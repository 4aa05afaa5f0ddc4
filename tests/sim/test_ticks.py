"""A pool's looks at its leases are left out where they would find nothing, and never come late."""

from dataclasses import dataclass, field
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from engine.sim.serving.clock import Clock
from engine.sim.serving.ticks import TICK_S, Ticks

END_S = 3.0
SAID = st.tuples(st.floats(0.0, 2.0), st.sampled_from([-inf, 0.0, 0.01, 0.07, 0.5]))
"""when something is said to the pool, and how much later it is due"""


@dataclass
class FakePool:
    """Things become due; a tick ends those that are."""

    clock: Clock
    due: list[float] = field(default_factory=list)
    ended: list[tuple[float, float]] = field(default_factory=list)
    """when a tick ended what"""

    @property
    def rmanager(self):
        return self

    def next_due(self, now):
        return min(self.due, default=inf)

    def hear(self, due):
        self.due.append(due)
        self.on_heard()

    def tick(self, now):
        self.ended += [(now, one) for one in sorted(self.due) if one <= now]
        self.due = [one for one in self.due if one > now]
        return []

    def on_heard(self):
        pass


def played(first, said, *, leaves_out):
    clock = Clock()
    pool = FakePool(clock)
    if leaves_out:
        Ticks(clock, pool, first, lambda outputs: None)
    else:
        clock.every(TICK_S, first, lambda: pool.tick(clock.now))
    for at, later in said:
        clock.at(at, lambda due=at + later: pool.hear(due))
    clock.run(END_S)
    return pool.ended, clock.num_events


@given(st.floats(0.0, TICK_S), st.lists(SAID, max_size=8))
def test_they_end_what_all_of_them_would_end_at_the_same_times(first, said):
    every, few = played(first, said, leaves_out=False), played(first, said, leaves_out=True)
    # What is said in the very moment of a look is seen by it or by the next one.
    if not {at for at, _ in said} & {at for at, _ in every[0]}:
        assert few[0] == every[0]
    assert few[1] <= 3 * len(said)
