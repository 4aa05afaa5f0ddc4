"""Protects a key's limit of borrowing: its requests together never have more of others' memory."""

from hypothesis import given
from hypothesis import strategies as st
from scheduler_checks import TOKENS, check_allowances, check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p

OPTIONS = {"max_step_tokens": 2, "grow_blocks": 1, "hand_over": False}
WORKING = 2
"""blocks of the own pool that pass through while others are borrowed, with these options"""


def prompt(number, num_blocks):
    """Which takes so many blocks, with room for one token more."""
    return [100 + number, *range(num_blocks * TOKENS - 2)]


def run(cluster, max_rounds=800):
    """To the end of all; the most that each tenant had on loan at once, by instance."""
    most = {}
    for _ in range(max_rounds):
        cluster.now += 0.05 if cluster.round() else 0.5
        check_cluster(cluster)
        for instance in cluster.instances:
            for key, num_slots in on_loan(instance).items():
                most[key] = max(most.get(key, 0), num_slots)
        if all(answer.done for answer in cluster.answers.values()):
            return most
    raise AssertionError(f"no progress: {cluster.describe()}")


def on_loan(instance):
    found, debts = {}, instance.scheduler.debts
    for one in instance.scheduler.roster.all():
        slots = sum(num for key, num in one.loans.items() if not debts.is_pin(key))
        key = (instance.number, one.request.tenant)
        found[key] = found.get(key, 0) + slots
    return found


def is_right(answer):
    return (answer.tokens, answer.finish_reason) == answer.expected()


def test_a_request_that_fits_within_the_limit_borrows_all_of_it():
    cluster = Cluster([8, 30], **OPTIONS)
    answer = cluster.submit(0, prompt(0, 8 - WORKING + 5), 1, tenant="a", max_borrowed=5)
    assert run(cluster)[0, "a"] == 5
    assert is_right(answer)


def test_one_block_more_is_refused_at_once_with_numbers():
    cluster = Cluster([8, 30], **OPTIONS)
    answer = cluster.submit(0, prompt(0, 8 - WORKING + 6), 1, tenant="a", max_borrowed=5)
    for said in ("23 tokens", "12 blocks", "6 can stay", "pool of 8", "a may borrow 5"):
        assert said in answer.error
    assert not cluster.instances[0].scheduler.roster.all()


def test_who_may_borrow_nothing_is_served_at_home():
    cluster = Cluster([8, 30], **OPTIONS)
    answers = [cluster.submit(0, prompt(n, 5), 5, tenant="a", max_borrowed=0) for n in range(3)]
    assert run(cluster)[0, "a"] == 0
    assert all(is_right(answer) for answer in answers)


def test_requests_of_a_tenant_share_its_limit_and_wait_for_one_another():
    cluster = Cluster([14, 60], **OPTIONS)
    answers = [cluster.submit(0, prompt(n, 9), 9, tenant="a", max_borrowed=9) for n in range(4)]
    assert 6 <= run(cluster)[0, "a"] <= 9
    assert all(is_right(answer) for answer in answers)


def test_others_borrow_as_if_it_was_not_there():
    cluster = Cluster([8, 40], **OPTIONS)
    first = cluster.submit(0, prompt(0, 10), 3, tenant="a", max_borrowed=4)
    other = cluster.submit(0, prompt(1, 20), 3, tenant="b")
    most = run(cluster)
    assert most[0, "b"] >= 20 - (8 - WORKING)
    assert is_right(first)
    assert is_right(other)


def test_a_sequence_that_grows_stops_borrowing_at_the_limit():
    cluster = Cluster([6, 40], **OPTIONS)
    answers = [cluster.submit(0, [100 + n, 1], 9, tenant="a", max_borrowed=1) for n in range(3)]
    assert run(cluster)[0, "a"] == 1
    assert all(is_right(answer) for answer in answers)


def test_advice_to_lend_is_followed_within_the_limit_also_twice_at_once():
    """Both deals are under way before anything is granted."""
    cluster = Cluster([20, 40], **OPTIONS)
    for number in range(2):
        cluster.submit(0, prompt(number, 3), 12, tenant="a", max_borrowed=3)
    scheduler = cluster.instances[0].scheduler
    while len(scheduler.running) < 2 or any(one.is_prefill for one in scheduler.running):
        cluster.round()
    for sequence in scheduler.running:
        move = p.Move(sequence.number, 2, p.Creditor(1, 1, "1", "host", 40))
        scheduler.on_advice(move, cluster.now)
    cluster.instances[0].perform()
    assert run(cluster)[0, "a"] == 3


@given(
    sizes=st.lists(st.integers(5, 10), min_size=2, max_size=3),
    wanted=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 14), st.integers(1, 12), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    limit=st.integers(0, 6),
    grow_blocks=st.integers(1, 3),
)
def test_it_holds_in_every_round_and_all_are_answered(sizes, wanted, limit, grow_blocks):
    """(instance, blocks of the prompt, tokens of the answer, whether it is the limited tenant's)"""
    cluster = Cluster(sizes, **{**OPTIONS, "grow_blocks": grow_blocks})
    answers = []
    for number, (instance, num_blocks, max_tokens, is_limited) in enumerate(wanted):
        who = {"tenant": "a", "max_borrowed": limit} if is_limited else {"tenant": "b"}
        owner = instance % len(sizes)
        answers.append(cluster.submit(owner, prompt(number, num_blocks), max_tokens, **who))
    most = run(cluster)
    assert all(num <= limit for (_, tenant), num in most.items() if tenant == "a")
    assert all(is_right(answer) or answer.error for answer in answers)
    for instance in cluster.instances:
        check_allowances(instance)
