"""Protects promise 9: the planner may vanish, and a new one knows all after one round of beats."""

from scheduler_checks import check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.scheduler.gmanager import GManager


class Orphans(Cluster):
    """Three instances; while ``gone`` nobody hears what they ask the planner."""

    def __init__(self):
        self.gone = False
        super().__init__([10, 30, 30], max_step_tokens=4, grow_blocks=2)

    def deliver_query(self):
        if self.gone:
            self.queries.popleft()
        else:
            super().deliver_query()

    def heartbeats(self):
        if not self.gone:
            super().heartbeats()

    def go_on(self, until, max_rounds=300):
        for _ in range(max_rounds):
            if until():
                return
            ran = self.round()
            check_cluster(self)
            self.now += 0.05 if ran else 0.5
        raise AssertionError(self.describe())

    def new_planner(self):
        self.gone = False
        self.planner = GManager(GManager.Config(stale_s=1e9))


def test_what_runs_and_what_fits_at_home_needs_no_planner():
    cluster = Orphans()
    long = cluster.submit(0, [100, *range(1, 30)], 4)
    cluster.go_on(lambda: long.tokens)
    cluster.gone = True
    short = cluster.submit(1, [101, 5, 6], 8)
    cluster.go_on(lambda: long.done and short.done)
    for answer in (long, short):
        assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_who_must_borrow_asks_again_until_there_is_a_planner():
    """A query to none is not waited for: it would be for ever."""
    cluster = Orphans()
    cluster.gone = True
    answer = cluster.submit(0, [100, *range(1, 40)], 4)
    began = cluster.now
    cluster.go_on(lambda: cluster.now > began + 20)
    assert not answer.error, "nobody was there to say that there is no room"
    assert not answer.tokens
    cluster.new_planner()
    cluster.go_on(lambda: answer.done)
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_a_new_planner_offers_what_the_old_one_did_after_one_round_of_beats():
    cluster = Orphans()
    answer = cluster.submit(0, [100, *range(1, 30)], 20)
    cluster.go_on(lambda: answer.tokens)
    query = p.BorrowQuery(1, 0, "host", 5)
    before = cluster.planner.handle(query, cluster.now)
    cluster.new_planner()
    assert not cluster.planner.handle(query, cluster.now).creditors
    cluster.heartbeats()
    assert cluster.planner.handle(query, cluster.now) == before
    assert len(before.creditors) == 2
    cluster.go_on(lambda: answer.done)
    assert (answer.tokens, answer.finish_reason) == answer.expected()
