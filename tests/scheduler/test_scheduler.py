"""Protects single promises of a scheduler that the machine would find only by luck."""

import pytest
from scheduler_checks import check_cluster
from scheduler_cluster import Cluster

from engine.memory.books import BlockState

OPTIONS = {"max_step_tokens": 4, "max_num_seqs": 4, "grow_blocks": 2, "lease_s": 30.0}
"""a step of 4 tokens needs 3 working blocks of 2 tokens"""


def cluster(*num_blocks, **options):
    return Cluster(num_blocks, **(OPTIONS | options))


def run(cluster, max_rounds=500):
    for _ in range(max_rounds):
        if all(answer.done for answer in cluster.answers.values()):
            return
        ran = cluster.round()
        check_cluster(cluster)
        cluster.now += 0.05 if ran else 0.5
    raise AssertionError("no progress")


def prompt(number, num_tokens):
    return [100 + number, *range(1, num_tokens)]


def test_a_long_prompt_is_lent_and_answered():
    two = cluster(8, 30)
    answer = two.submit(0, prompt(0, 40), 8)
    run(two)
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_who_was_preempted_does_not_take_back_what_it_gave():
    """Without this the younger starts over for ever, and the elder never gets its block."""
    one = cluster(4, max_step_tokens=1, max_num_seqs=2)
    answers = [one.submit(0, prompt(n, num), most) for n, num, most in [(0, 1, 5), (1, 3, 2)]]
    run(one)
    for answer in answers:
        assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_no_more_run_at_once_than_configured():
    one = cluster(40, max_num_seqs=2)
    for number in range(5):
        one.submit(0, prompt(number, 3), 4)
    most = 0
    for _ in range(12):
        one.round()
        most = max(most, len(one.instances[0].scheduler.running))
    assert most == 2
    run(one)


def test_decodes_come_first_and_a_prefill_takes_what_the_budget_leaves():
    one = cluster(40)
    one.submit(0, prompt(0, 3), 20)
    answer = one.submit(0, prompt(1, 9), 20)
    while len(one.instances[0].scheduler.running) < 2 or not one.answers["0"].tokens:
        one.round()
    assert not answer.tokens
    plan = one.instances[0].scheduler.schedule(one.now)
    assert [(span.sequence, span.num_rows) for span in plan.spans] == [(1, 1), (2, 3)]


def test_an_idle_instance_gives_all_its_blocks_back():
    two = cluster(9, 9)
    two.submit(0, prompt(0, 4), 2)
    run(two)
    two.round()
    for instance in two.instances:
        assert instance.rmanager.books.num_available == 9
        assert instance.rmanager.books.count(BlockState.USED) == 0
    answer = two.submit(1, prompt(1, 26), 1)  # all but 3 working blocks, and all of the other's
    run(two)
    assert not answer.error


def test_a_full_pool_is_no_reason_to_refuse_what_fits_later():
    one = cluster(6)
    first, second = (one.submit(0, prompt(n, 6), 5) for n in range(2))
    run(one)
    assert not first.error
    assert not second.error


@pytest.mark.parametrize("placement", ["ledger", "local_only"])
def test_what_never_fits_is_refused_with_numbers(placement):
    two = cluster(6, 6, placement=placement)
    answer = two.submit(0, prompt(0, 40), 5)
    run(two)
    assert "a context of 40 tokens needs 21 blocks of 2; this instance has 6." in answer.error


@pytest.mark.parametrize(
    ("prompt_ids", "reason"),
    [([], "the prompt is empty"), (prompt(0, 64), "the prompt has 64 tokens and the model 64")],
)
def test_an_impossible_prompt_is_refused_at_once(prompt_ids, reason):
    answer = cluster(6).submit(0, prompt_ids, 5)
    assert answer.error.startswith(reason)


def test_two_deals_that_fail_at_once_preempt_without_harm():
    """Acting on the first deal's end may end the second."""
    three = cluster(4, 4, 4, max_step_tokens=2)
    answers = [three.submit(0, prompt(n, 3), 6) for n in range(2)]
    scheduler = three.instances[0].scheduler
    for _ in range(40):
        three.heartbeats()
        for key in [(0, 0)]:
            channel = three.channels[key]
            while channel.up:
                three.deliver_up(*key)
            while channel.down:
                three.deliver_down(*key)
        three.instances[0].step()
        if len(scheduler.growth.borrowing) == 2:
            break
    assert len(scheduler.growth.borrowing) == 2, "the planner is silent, so two wait for it"
    three.now += 6
    three.instances[0].step()
    check_cluster(three)
    run(three)
    for answer in answers:
        assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_all_loans_are_lost_after_a_pause_longer_than_the_lease():
    two = cluster(8, 30, max_num_seqs=1)
    answer = two.submit(0, prompt(0, 40), 20)
    while not answer.tokens:
        two.round()
    debtor = two.instances[0].scheduler
    assert len(debtor.debts)
    two.now += 40
    two.instances[0].step()
    assert not len(debtor.debts)
    assert not debtor.running
    run(two)
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_a_sequence_that_grows_keeps_no_slots_it_has_no_leaf_for():
    two = cluster(2, 8, grow_blocks=4)
    answer = two.submit(0, prompt(0, 3), 4)
    most = 0
    while not answer.done:
        two.round()
        check_cluster(two)
        most = max(most, two.instances[1].rmanager.books.count(BlockState.LENT))
    assert most == 2, "4 were granted, and 2 leaves could move"


def test_who_waits_for_memory_is_placed_as_soon_as_there_is_some():
    """Its pause is for those who refuse each other; up to 5 s of idle memory it must not cost."""
    one = cluster(8, hand_over=False)
    first, second = (one.submit(0, prompt(n, num), 3) for n, num in ((0, 12), (1, 6)))
    while not first.done:
        one.round()
        one.now += 0.7
    num_rounds = 0
    while not second.tokens:
        one.round()
        num_rounds += 1
    assert num_rounds < 5, "a prefill of 6 tokens is two steps"


def test_running_ones_lend_so_that_who_waits_has_room_to_work():
    """The neighbour's memory is of no use to who has no block at home to compute in."""
    two = cluster(8, 30)
    answers = [two.submit(0, prompt(n, 10), 8) for n in range(2)]
    scheduler, most = two.instances[0].scheduler, 0
    while not all(answer.done for answer in answers):
        two.round()
        check_cluster(two)
        two.now += 0.05
        most = max(most, len(scheduler.running))
    assert most == 2
    assert scheduler.loads.relief["loans"] > 0
    assert scheduler.loads.relief["preemptions"] == 0
    for answer in answers:
        assert (answer.tokens, answer.finish_reason) == answer.expected()
