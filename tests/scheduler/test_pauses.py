"""Protects promises 5 and 10: a cluster that is stopped for a while, as by a sleep, goes on.

Loans of which the lease ran out meanwhile are lost, but nobody is called gone, and nothing is
refused, because a planner that was stopped as well has heard nothing.
"""

from hypothesis import given
from hypothesis import strategies as st
from scheduler_checks import TOKENS, check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.protocol.base import MAX_BLOCKS
from engine.scheduler.gmanager import GManager
from engine.scheduler.ledger import LedgerPlacement
from engine.scheduler.membership import LISTEN_S
from engine.scheduler.own_time import OwnTime
from engine.scheduler.performance import Performance
from engine.scheduler.planner import Planner

STALE_S, LOOK_S = 3.0, 0.5
PAUSES = st.floats(0, 1e5)


class Process:
    """A planner, and its process, which looks every ``LOOK_S`` when it runs."""

    def __init__(self, now):
        self._planner = Planner(
            Planner.Config(stale_s=STALE_S),
            placement=LedgerPlacement(LedgerPlacement.Config()),
            cost=Performance(),
            block_tokens=TOKENS,
            cluster="test",
            layout="rows",
            num_first=3,
            now=now,
        )
        self._looked_at = now

    def handle(self, message, now):
        self._looked_at = now
        said = self._planner.handle(b"", message, now)
        return said[-1][1] if said else None

    def run(self, until):
        while self._looked_at < until:
            self._looked_at = min(until, self._looked_at + LOOK_S)
            self._planner.tick(self._looked_at)


def beat(instance):
    return p.Heartbeat(instance, 1, "", "", 9, 9, 9, 0, 9)


def offer(planner, now):
    return planner.handle(p.BorrowQuery(7, 0, "", 4), now)


def there(planner, now):
    return planner.handle(p.MembersQuery(), now).there


def planner_that_knows(*instances):
    planner = Process(0.0)
    planner.run(LISTEN_S)
    for instance in instances:
        planner.handle(beat(instance), LISTEN_S)
    return planner, LISTEN_S


@given(PAUSES)
def test_while_the_planner_is_stopped_nobody_falls_silent(pause_s):
    planner, now = planner_that_knows(1, 2)
    before = offer(planner, now), there(planner, now)
    assert (before[0].num_lend_cap, before[1]) == (18, [1, 2])
    now += pause_s
    assert (offer(planner, now), there(planner, now)) == before


@given(PAUSES)
def test_who_does_not_speak_again_is_gone_though_others_do(pause_s):
    planner, now = planner_that_knows(1, 2)
    now += pause_s
    for _ in range(2):
        planner.handle(beat(2), now)
        planner.run(now + 0.6 * STALE_S)
        now += 0.6 * STALE_S
    assert there(planner, now) == [2]
    assert offer(planner, now).num_lend_cap == 9


@given(PAUSES)
def test_a_new_planner_calls_nothing_too_much_before_all_had_time_to_speak(pause_s):
    planner = Process(50.0)
    assert offer(planner, 50.0) == p.BorrowOffer(7, [], MAX_BLOCKS)
    assert offer(planner, 50.0 + pause_s).num_lend_cap == MAX_BLOCKS
    planner.run(50.0 + pause_s + LISTEN_S)
    assert offer(planner, 50.0 + pause_s + LISTEN_S).num_lend_cap == 0


@given(st.lists(st.floats(-10, 10), max_size=20))
def test_own_time_is_that_of_the_clock_but_for_pauses_and_never_goes_back(steps):
    time, now, latest, expected = OwnTime(1.0, 5.0), 5.0, 5.0, 5.0
    for step in steps:
        now += step
        expected += min(max(0.0, now - latest), 1.0)
        latest = max(latest, now)
        assert time.at(now) == expected


class Stopped(Cluster):
    """Three instances with a planner's process; all of them can be stopped at once."""

    def __init__(self):
        super().__init__([10, 30, 30], max_step_tokens=4, grow_blocks=2)
        self.planner = Process(self.now)

    def stop(self, for_s):
        """What was asked before is answered first when it goes on; all report a little later."""
        self.now += for_s
        for _ in range(3):
            for instance in self.instances:
                instance.step()
                assert for_s <= self.config.lease_s or not len(instance.scheduler.debts)
            self.deliver_all()
            for_s = 0.0
            self.now += 0.05
            self.planner.run(self.now)

    def go_on(self, until):
        for _ in range(400):
            if until():
                return
            ran = self.round()
            check_cluster(self)
            self.now += 0.05 if ran else 0.5
            self.planner.run(self.now)
        raise AssertionError(self.describe())


@given(st.lists(st.tuples(st.integers(0, 12), PAUSES), max_size=4))
def test_who_borrows_is_answered_however_often_and_long_all_are_stopped(pauses):
    cluster = Stopped()
    answer = cluster.submit(0, [100, *range(1, 30)], 12)
    for num_tokens, pause_s in sorted(pauses):
        cluster.go_on(lambda wanted=num_tokens: answer.done or len(answer.tokens) >= wanted)
        cluster.stop(pause_s)
    cluster.go_on(lambda: answer.done)
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_what_was_hopeless_once_and_ran_since_is_not_refused_when_it_is_so_again():
    """Two planners, long after each other, had heard of nobody yet."""
    cluster = Cluster([10, 30, 30], max_step_tokens=4, grow_blocks=2)
    answer = None
    for _ in range(2):
        cluster.planner = GManager(GManager.Config(stale_s=1e9))
        answer = answer or cluster.submit(0, [100, *range(1, 50)], 12)
        began = cluster.now
        while cluster.now < began + 0.9 * cluster.config.sure_s:
            cluster.instances[0].step()
            cluster.deliver_all()
            cluster.now += 0.1
        assert not answer.error
        while not answer.tokens:
            cluster.round()
            cluster.now += 0.5
        cluster.now += 2 * cluster.config.lease_s  # the loans end
    for _ in range(100):
        cluster.round()
        cluster.now += 0.5
    assert (answer.tokens, answer.finish_reason) == answer.expected()
