"""Protects promise 10, its third step: who must give way goes on where there is room for all of it.

The order is: borrow, host memory, another instance, and only then start over at home.
"""

from dataclasses import replace

import pytest
from scheduler_checks import check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.core import Request

OPTIONS = {"max_step_tokens": 4, "max_num_seqs": 4, "grow_blocks": 2, "placement": "local_only"}


class Handing(Cluster):
    """Clients that send what was handed over to the other instance, as the gateway does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.handed = []

    def to_client(self, name, message):
        if not isinstance(message, p.HandedOver):
            super().to_client(name, message)
            return
        self.handed.append(name)
        first = self.answers[name]
        to = self.instances[1 - first.instance]
        got = tuple(first.tokens)
        again = replace(first.request, request_id=f"{name}+", answer_ids=got, age_s=9)
        self.answers[again.request_id] = type(first)(to.number, again, list(got))
        first.aborted = True  # what follows comes to the other
        to.scheduler.add(again)

    def tell_members(self):
        members = []
        for one in self.instances:
            beat = one.rmanager.heartbeat(address="", host="host", now=self.now)
            where = f"step-{one.number}"
            members.append(p.Member(one.number, 1, where, beat.num_blocks, beat.num_free, 0, 0))
        for one in self.instances:
            one.scheduler.on_advice(p.Members(members), self.now)
            one.perform()

    def run(self, max_rounds=300):
        for _ in range(max_rounds):
            if all(answer.done for answer in self.answers.values()):
                return
            ran = self.round()
            check_cluster(self)
            self.now += 0.05 if ran else 0.5
        raise AssertionError(self.describe())


def two_that_outgrow(*num_blocks, **options):
    """Each fits alone in the first pool, both do not."""
    cluster = Handing(num_blocks, **(OPTIONS | options))
    for number in range(2):
        cluster.submit(0, [100 + number, 1, 2, 3], 9)
    cluster.run()
    for answer in cluster.answers.values():
        wanted, reason = answer.expected()
        assert answer.tokens == wanted[: len(answer.tokens)]
        assert answer.aborted or answer.finish_reason == reason
    return cluster, cluster.instances[0].scheduler.loads.relief


def test_the_younger_goes_on_where_there_is_room():
    cluster, relief = two_that_outgrow(8, 20)
    assert cluster.handed == ["1"]
    assert (relief["handovers"], relief["preemptions"]) == (1, 0)


@pytest.mark.parametrize(
    ("num_blocks", "options"),
    [((8, 4), {}), ((8,), {}), ((8, 20), {"hand_over": False})],
    ids=["no room there", "nobody there", "not wanted"],
)
def test_else_it_starts_over_at_home(num_blocks, options):
    cluster, relief = two_that_outgrow(*num_blocks, **options)
    assert cluster.handed == []
    assert relief["handovers"] == 0
    assert relief["preemptions"] > 0


def test_who_would_only_come_back_stays():
    cluster = Handing((8, 20), **OPTIONS)
    scheduler = cluster.instances[0].scheduler
    for number in range(2):
        answer = cluster.submit(0, [100 + number, 1, 2, 3], 9)
        scheduler.abort(answer.request.request_id)
        scheduler.add(replace(answer.request, stays=True))
    cluster.run()
    assert cluster.handed == []
    assert scheduler.loads.relief["preemptions"] > 0


def test_who_can_borrow_is_not_handed_over():
    cluster, relief = two_that_outgrow(8, 20, placement="ledger")
    assert cluster.handed == []
    assert relief["loans"] > 0
    assert relief["preemptions"] == 0


def test_room_is_promised_once_until_the_planner_speaks_again():
    cluster = Handing((8, 20), **OPTIONS)
    neighbours = cluster.instances[0].scheduler.neighbours
    cluster.tell_members()
    assert neighbours.take(12)
    assert not neighbours.take(12)
    assert neighbours.take(8)
    cluster.tell_members()
    assert neighbours.take(12)


def test_who_was_sent_again_keeps_its_seniority():
    """The oldest request can always finish, wherever it runs."""
    cluster = Handing((8, 20), **OPTIONS)
    scheduler = cluster.instances[0].scheduler
    for name, age_s in (("young", 0.0), ("old", 60.0)):
        request = Request(request_id=name, prompt_ids=(1, 2), age_s=age_s)
        scheduler.add(request)
    scheduler.tick(cluster.now)
    placed_first = scheduler.admission.placing
    assert placed_first.request.request_id == "old"
    assert placed_first.arrived == cluster.now - 60.0
