"""Protects promise 4, simulated: a creditor's own request gets its blocks in time, always."""

import pytest

from engine import protocol as p
from engine.sim import history
from engine.sim.config import SimConfig
from engine.sim.promises import Promises
from engine.sim.world import World

CROWDED = SimConfig(
    requests=60, faults=8, kinds=["freeze_step", "partition", "slow"], pool_blocks=[6, 14, 14]
)


def test_what_a_pool_owes_its_step_comes_in_time():
    found = [history.run(CROWDED, seed) for seed in range(4)]
    assert [one.violations for one in found] == [[]] * len(found)
    assert sum(one.notes["recall_deadlines"] for one in found) > 40


@pytest.fixture
def promises():
    made = Promises(World(SimConfig(), 0), "pool0")
    made.check(0, 10.0)
    made.on_draw(p.Draw(3, recall=True), p.Drawn([], 0, False, 3, 0.1), 10.0)
    return made


def tick_until(promises, num_available, end):
    for tick in range(251, round(end * 25) + 1):
        promises.check(num_available, tick / 25)
    return promises._world.violations


def test_blocks_that_do_not_come_are_missed_one_tick_later(promises):
    assert tick_until(promises, 2, 10.12) == []
    assert len(tick_until(promises, 2, 10.16)) == 1


@pytest.mark.parametrize("wanted", [1, 2])
def test_what_was_drawn_counts_and_who_wants_less_is_owed_less(promises, wanted):
    promises.on_draw(p.Draw(wanted, recall=True), p.Drawn([5], 0), 10.0)
    assert len(tick_until(promises, 0, 10.5)) == (wanted == 2)


def test_a_frozen_pool_and_a_dead_step_owe_nothing(promises):
    promises.check(0, 11.0)
    promises.on_draw(p.Draw(3, recall=True), p.Drawn([], 0, False, 3, 0.1), 11.0)
    promises.forget()
    assert tick_until(promises, 0, 12.0) == []
