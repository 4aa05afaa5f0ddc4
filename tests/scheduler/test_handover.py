"""Protects promise 10, its third step: who must give way goes on where there is room for all of it.

The order is: borrow, host memory, another instance, and only then start over at home; but who would
take longer there to compute its keys again than to wait here stays.
"""

from dataclasses import replace

import pytest
from pins_harness import FEW, prefill
from scheduler_checks import TOKENS, check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.core import Request

OPTIONS = {"max_step_tokens": 4, "max_num_seqs": 4, "grow_blocks": 2, "placement": "local_only"}
STEP_S = 0.2


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


def running(*lengths):
    """Requests of (prompt tokens, answer tokens), the elder first, in one of two roomy pools; the
    youngest has four blocks at least.
    """
    cluster = Handing((40, 40), **(OPTIONS | {"max_step_tokens": 8}))
    for number, (num_prompt, max_tokens) in enumerate(lengths):
        cluster.submit(0, [100 + number, *range(1, num_prompt)], max_tokens)
    scheduler = cluster.instances[0].scheduler
    while len(scheduler.running) < len(lengths) or len(scheduler.running[-1].table) < 4:
        cluster.round()
    return cluster, scheduler


def give_way(cluster, scheduler, short, *, token_s):
    """``short`` finds no memory; a prompt's token is known to take so long, and a step."""
    for _ in range(60):
        scheduler.prices.timed(prefill(FEW), [FEW * token_s], 0.0)
    scheduler.loads.step_s = STEP_S
    scheduler.batch.short = [short]
    scheduler._preemption.make_room(short)
    cluster.instances[0].perform()


@pytest.mark.parametrize(("share", "handed"), [(0.9, ["1"]), (1.1, [])])
def test_who_computes_longer_than_it_would_wait_stays(share, handed):
    cluster, scheduler = running((4, 30), (4, 30))
    elder, younger = scheduler.running
    wait_s = STEP_S * (30 - len(cluster.answers["0"].tokens))
    give_way(cluster, scheduler, elder, token_s=share * wait_s / (TOKENS * len(younger.table)))
    assert cluster.handed == handed
    assert (younger in scheduler.admission.waiting) == (not handed)


@pytest.mark.parametrize(("share", "handed"), [(0.9, ["3"]), (1.1, [])])
def test_it_waits_until_enough_of_the_others_have_ended(share, handed):
    """The first to end leaves too little for a prompt of which most is still to come, the second
    enough, with what it has put aside."""
    cluster, scheduler = running((2, 12), (10, 20), (4, 40), (30, 9))
    first, second, _, younger = scheduler.running
    lacking = (30 + 1) // TOKENS + 1 - len(younger.table)
    there = sum(len(one.table) + len(one.spare) for one in (first, second))
    assert there < lacking
    second.spare += [*range(100, 100 + lacking - there)]
    wait_s = STEP_S * (20 - len(cluster.answers["1"].tokens))
    give_way(cluster, scheduler, first, token_s=share * wait_s / (TOKENS * len(younger.table)))
    assert cluster.handed == handed


def test_what_others_hold_is_not_computed_again():
    """They keep it cached, and it is found where the request goes on."""
    cluster, scheduler = running((4, 30), (9, 30))
    elder, younger = scheduler.running
    wait_s = STEP_S * (30 - len(cluster.answers["0"].tokens))
    younger.table[:-1] = [ref._replace(instance=1, loan=1) for ref in younger.table[:-1]]
    give_way(cluster, scheduler, elder, token_s=0.9 * wait_s / TOKENS)
    assert cluster.handed == ["1"]


def test_who_finds_too_little_even_when_all_have_ended_waits_for_them_first():
    cluster, scheduler = running((4, 30), (30, 9))
    elder, younger = scheduler.running
    assert len(elder.table) < younger.num_to_place(TOKENS)
    give_way(cluster, scheduler, elder, token_s=1e6)
    assert cluster.handed == []


def test_when_nobody_else_runs_it_goes_however_long_it_computes():
    cluster, scheduler = running((4, 30))
    give_way(cluster, scheduler, scheduler.running[0], token_s=1e6)
    assert cluster.handed == ["0"]


def test_who_would_start_over_here_goes_however_long_it_computes():
    """A hole that it has not computed again: it cannot wait with what it has."""
    cluster, scheduler = running((4, 30), (4, 30))
    elder, younger = scheduler.running
    younger.open_holes([0], TOKENS)
    give_way(cluster, scheduler, elder, token_s=1e6)
    assert cluster.handed == ["1"]
