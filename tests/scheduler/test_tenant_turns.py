"""Tenants who wait are served in turn: a flood of one's requests costs another no more than one."""

from hypothesis import given
from hypothesis import strategies as st
from scheduler_checks import check_cluster
from scheduler_cluster import Cluster

from engine.core import Request
from engine.scheduler.sequence import Sequence
from engine.scheduler.turns import Turns

OPTIONS = {"max_step_tokens": 8, "max_num_seqs": 1, "grow_blocks": 1, "placement": "local_only"}


def order_of_first_tokens(cluster, max_rounds=500):
    order = []
    for _ in range(max_rounds):
        cluster.now += 0.05 if cluster.round() else 0.5
        check_cluster(cluster)
        order += [name for name, one in cluster.answers.items() if one.tokens and name not in order]
        if all(answer.done for answer in cluster.answers.values()):
            return order
    raise AssertionError("no progress")


def test_one_request_beside_a_flood_waits_for_the_running_one_only():
    cluster = Cluster([40], **OPTIONS)
    for number in range(12):
        cluster.submit(0, [100 + number, 1, 2], 4, tenant="flood")
    for _ in range(10):
        cluster.round()
    begun = sum(bool(one.tokens) for one in cluster.answers.values())
    cluster.submit(0, [200, 1, 2], 4, tenant="calm")
    order = order_of_first_tokens(cluster)
    assert begun < 4
    assert order.index("12") <= begun + 1


def test_without_tenants_they_come_in_order_of_arrival():
    cluster = Cluster([40], **OPTIONS)
    for number in range(6):
        cluster.submit(0, [100 + number, 1, 2], 3)
    assert order_of_first_tokens(cluster) == [str(number) for number in range(6)]


def test_a_request_that_starts_over_takes_no_second_turn():
    turns = Turns()
    one = sequence(0, "a", 5)
    turns.began_to_wait("a")
    for _ in range(3):
        turns.admitted(one)
    turns.began_to_wait("b")
    turns.admitted(sequence(1, "b", 6))
    assert min([sequence(2, "b", 1), sequence(3, "a", 1)], key=turns.of).request.tenant == "a"


sizes = st.lists(st.integers(1, 30), min_size=1, max_size=30)


@given(flood=sizes, calm=sizes, idle=st.integers(0, 30), spoken=st.integers(0, 9))
def test_while_two_wait_neither_gets_ahead_by_more_than_their_largest_requests(
    flood, calm, idle, spoken
):
    """One floods from the beginning, the other comes after ``idle`` turns of it, however late."""
    turns, waiting, number = Turns(), [], 0
    turns.began_to_wait("flood")
    for size in flood:
        waiting.append(sequence(number, "flood", size))
        number += 1
    for _ in range(min(idle, len(flood) - 1)):
        serve(turns, waiting, spoken)
    turns.began_to_wait("calm")
    for size in calm:
        waiting.append(sequence(number, "calm", size))
        number += 1
    served, bound = {"flood": 0, "calm": 0}, max(flood) + max(calm) + 2 * spoken
    while len({one.request.tenant for one in waiting}) == 2:
        chosen = serve(turns, waiting, spoken)
        served[chosen.request.tenant] += len(chosen.token_ids) + spoken
        assert abs(served["flood"] - served["calm"]) <= bound


@given(flood=st.lists(st.integers(1, 30), min_size=2, max_size=30), turns_before=st.integers(1, 29))
def test_a_first_request_waits_for_no_more_than_one_turn_of_the_flood(flood, turns_before):
    turns, waiting = Turns(), [sequence(n, "flood", size) for n, size in enumerate(flood)]
    turns.began_to_wait("flood")
    for _ in range(min(turns_before, len(flood) - 1)):
        serve(turns, waiting, 0)
    turns.began_to_wait("calm")
    waiting.append(sequence(99, "calm", 1))
    assert "calm" in [serve(turns, waiting, 0).request.tenant for _ in range(2) if waiting]


def sequence(number, tenant, size):
    request = Request(request_id=str(number), prompt_ids=tuple(range(size)), tenant=tenant)
    return Sequence(number, request, list(request.prompt_ids))


def serve(turns, waiting, spoken):
    chosen = min(waiting, key=turns.of)
    waiting.remove(chosen)
    turns.admitted(chosen)
    for _ in range(spoken):
        turns.answered(chosen.request.tenant)
    return chosen
