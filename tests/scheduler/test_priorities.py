"""A lower number comes first: in the queue, and where memory is short, here and elsewhere."""

import pytest
from scheduler_checks import check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p

OPTIONS = {"max_step_tokens": 4, "max_num_seqs": 4, "grow_blocks": 1}


def finish(cluster, max_rounds=800):
    """To the end; names in the order in which they ended."""
    order = []
    for _ in range(max_rounds):
        cluster.now += 0.05 if cluster.round() else 0.5
        check_cluster(cluster)
        order += [name for name, one in cluster.answers.items() if one.done and name not in order]
        if len(order) == len(cluster.answers):
            for answer in cluster.answers.values():
                assert (answer.tokens, answer.finish_reason) == answer.expected()
            return order
    raise AssertionError("no progress")


def test_the_queue_is_served_by_priority_then_by_arrival():
    cluster = Cluster([40], **(OPTIONS | {"max_num_seqs": 1}))
    for number, priority in enumerate([0, 3, -1, 3, 0, -1]):
        cluster.submit(0, [100 + number, 1, 2], 2, priority=priority)
    assert finish(cluster) == ["2", "5", "0", "4", "1", "3"]


@pytest.mark.parametrize("placement", ["local_only", "ledger"])
def test_an_urgent_request_takes_the_memory_of_one_that_runs(placement):
    """The pool is full of one that runs; later and more urgent, the other ends first."""
    cluster = Cluster([8], **OPTIONS, placement=placement)
    scheduler = cluster.instances[0].scheduler
    cluster.submit(0, [100, *range(1, 9)], 6, priority=5)
    while not cluster.answers["0"].tokens:
        cluster.round()
    cluster.submit(0, [200, *range(1, 9)], 4, priority=0)
    assert finish(cluster) == ["1", "0"]
    assert scheduler.loads.relief["preemptions"]


def test_it_takes_nothing_of_its_equals():
    cluster = Cluster([8], **OPTIONS, placement="local_only")
    cluster.submit(0, [100, *range(1, 9)], 6)
    while not cluster.answers["0"].tokens:
        cluster.round()
    cluster.submit(0, [200, *range(1, 9)], 4)
    assert finish(cluster) == ["0", "1"]
    assert not cluster.instances[0].scheduler.loads.relief["preemptions"]


def test_no_more_than_it_wants_is_taken_of_the_less_urgent():
    cluster = Cluster([12], **OPTIONS, placement="local_only")
    cluster.submit(0, [100, *range(1, 17)], 4, priority=5)
    scheduler = cluster.instances[0].scheduler
    while not cluster.answers["0"].tokens:
        cluster.round()
    cluster.submit(0, [200, *range(1, 9)], 4, priority=0)
    while not any(one.number == 2 for one in scheduler.running):
        cluster.round()
        cluster.now += 0.05
    [less_urgent] = scheduler.admission.waiting
    assert len(less_urgent.table) >= 6
    assert finish(cluster) == ["1", "0"]


def test_a_creditor_calls_back_from_the_less_urgent_debtor():
    """Though it asked first: rank is priority, then age."""
    cluster = Cluster([4, 4, 12], **OPTIONS, placement="ledger")
    pool = cluster.instances[2].rmanager
    debtors = {}
    for number in (0, 1):
        cluster.connect(cluster.instances[number], 2)
        cluster.deliver_up(number, 2)
        debtors[number] = cluster.channels[number, 2].peer
    now = cluster.now
    outs = pool.handle(debtors[0], p.Reserve(1, 10, 30.0, 100.0, 5), now)
    assert isinstance(outs[-1].message, p.Granted)
    later = now + 5
    for priority, expected in ((5, []), (0, [p.Recall])):
        outs = pool.handle(debtors[1], p.Reserve(2 + priority, 6, 30.0, 1.0, priority), later)
        assert [type(out.message) for out in outs if out.peer == debtors[0]] == expected
