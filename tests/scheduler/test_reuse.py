"""Protects prefix caching at one instance: used again, never a reason to wait, never a stranger's.

Whole schedulers over real books; every key that is read is compared (scheduler_harness.py).
"""

import pytest
from scheduler_checks import TOKENS, check_cluster
from test_scheduler import cluster, run

from engine.comm.frame import HEAD_BYTES
from engine.core import BlockRef, Request, SamplingParams
from engine.memory.books import BlockState
from engine.protocol import Draw, Give, Pin, encode
from engine.scheduler.admission import MAX_LOOKED_UP
from engine.scheduler.holdings import MAX_GIVEN
from engine.scheduler.sequence import Sequence

COMMON = list(range(1, 18))


def ask(of, prompt, max_tokens=3, instance=0, **more):
    """The answer, once all is quiet."""
    answer = of.submit(instance, prompt, max_tokens, **more)
    run(of)
    of.round()
    check_cluster(of)
    assert (answer.tokens, answer.finish_reason) == answer.expected()
    return answer


def test_all_but_the_last_tokens_leaf_is_found_at_home():
    one = cluster(40)
    assert ask(one, COMMON).num_reused == 0
    assert ask(one, COMMON).num_reused == 16
    assert ask(one, COMMON[:16]).num_reused == 14
    assert ask(one, [*COMMON[:9], 90, 91, 92]).num_reused == 8
    assert ask(one, [*range(50, 60)]).num_reused == 0
    reuse = one.instances[0].scheduler.load(one.now).reuse
    assert reuse == {"queries": 72, "hits_own": 38, "hits_other": 0, "copied": 0}


def test_the_answer_is_found_as_well_as_the_prompt():
    one = cluster(40)
    first = ask(one, COMMON, 7)
    assert ask(one, [*COMMON, *first.tokens]).num_reused == 22


def test_nothing_is_shared_between_salts():
    one = cluster(60)
    for salt in ("", "a", "b"):
        assert ask(one, COMMON, cache_salt=salt).num_reused == 0
        assert ask(one, COMMON, cache_salt=salt).num_reused == 16


def test_nothing_is_kept_where_it_is_switched_off():
    one = cluster(40, prefix_caching=False)
    ask(one, COMMON)
    assert one.instances[0].rmanager.books.count(BlockState.CACHED) == 0
    assert ask(one, COMMON).num_reused == 0


def test_two_that_run_share_what_is_sealed():
    one = cluster(40)
    first = one.submit(0, COMMON, 20)
    while not first.tokens:
        one.round()
    second = one.submit(0, COMMON, 3)
    while not second.tokens:
        one.round()
        check_cluster(one)
    assert second.num_reused == 16
    scheduler = one.instances[0].scheduler
    for sequence in scheduler.running:
        lendable = scheduler.holdings.own_sealed(sequence)
        assert not [leaf for leaf in lendable if leaf < 8], "to lend one of these frees nothing"
    one.abort("0")  # what it shared stays with the other
    run(one)
    assert (second.tokens, second.finish_reason) == second.expected()


def test_what_is_cached_makes_nobody_wait_and_goes_the_oldest_tail_first():
    one = cluster(20)
    ask(one, COMMON)
    ask(one, [*range(50, 67)])
    books = one.instances[0].rmanager.books
    num_cached = books.count(BlockState.CACHED)
    assert num_cached == 18
    assert books.num_available == 20
    answer = one.submit(0, [*range(70, 79)], 1)
    one.round()
    assert one.instances[0].scheduler.running or answer.done, "it is placed at once"
    run(one)
    assert books.num_evicted
    assert ask(one, COMMON[:9]).num_reused == 8, "the head outlives the tail"


def test_others_may_borrow_all_that_is_only_cached():
    two = cluster(9, 30)
    ask(two, [*range(50, 109)], 1, instance=1)
    books = two.instances[1].rmanager.books
    assert books.count(BlockState.CACHED) == 29
    assert books.num_available == 30
    answer = two.submit(0, [100, *range(1, 40)], 4)  # most of it must lie there
    run(two)
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_another_instance_finds_it():
    two = cluster(40, 40)
    ask(two, COMMON)
    two.now += 1
    again = ask(two, COMMON, instance=1)
    assert again.num_reused == 16
    reuse = two.instances[1].scheduler.load(two.now).reuse
    assert reuse == {"queries": 17, "hits_own": 0, "hits_other": 16, "copied": 0}
    assert ask(two, COMMON, instance=1, cache_salt="a").num_reused == 0


def test_it_is_copied_where_asking_for_it_at_each_step_costs_more():
    two = cluster(40, 40)
    ask(two, COMMON)
    two.trip_s = 10.0
    ask(two, [70, 71, 72], instance=1)
    again = two.submit(1, COMMON, 20)
    while len(again.tokens) < 15:
        two.round()
        check_cluster(two)
        two.now += 0.05
    assert again.num_reused == 16
    [sequence] = two.instances[1].scheduler.running
    assert all(ref.instance == 1 for ref in sequence.table)
    assert two.instances[1].scheduler.load(two.now).reuse["copied"] == 16
    assert ask(two, COMMON, instance=1).num_reused == 16


def test_half_here_and_half_there():
    two = cluster(40, 40)
    ask(two, COMMON)
    ask(two, COMMON[:9], instance=1, cache_salt="")
    two.now += 1
    assert ask(two, COMMON, instance=1).num_reused == 16


def test_who_is_not_placed_with_what_was_found_is_placed_without():
    """All that its pool can hold is found: there is no block left to compute the rest in."""
    two = cluster(9, 60)
    ask(two, COMMON)
    ask(two, [100, *range(1, 60)], instance=1)
    answer = ask(two, [*COMMON, *range(60, 80)], 9)
    assert answer.tokens


def test_who_can_never_run_is_refused_whatever_is_found():
    """With what others have cached it is not hopeless, and is not placed either."""
    three = cluster(10, 3, 3, max_step_tokens=3)
    ask(three, [100, *range(23)], 1)
    refused = three.submit(0, [100, *range(27)], 20)  # 15 blocks; 7 and 6 there are
    run(three)
    assert "needs 15 blocks" in refused.error


def test_who_wants_every_row_of_the_prompt_computes_them_all():
    one = cluster(40)
    ask(one, COMMON)
    sampling = SamplingParams(max_tokens=2, prompt_logprobs=0)
    one.instances[0].scheduler.add(
        Request(request_id="all", prompt_ids=tuple(COMMON), sampling=sampling)
    )
    plan = one.instances[0].scheduler.schedule(one.now)
    one.instances[0].perform()
    one.deliver_all()
    plan = plan or one.instances[0].scheduler.schedule(one.now)
    assert plan.spans[0].first_position == 0


@pytest.mark.parametrize("num_tries", [0, 3])
def test_what_was_found_for_one_that_waits_is_there_for_others(num_tries):
    one = cluster(10)
    ask(one, COMMON)
    running = one.submit(0, [100], 10)
    while not running.tokens:
        one.round()
    one.submit(0, [*COMMON, *range(60, 64)], 2)  # 11 blocks: never
    for _ in range(3 + num_tries):
        one.round()
        one.now += 0.1
        check_cluster(one)
    waiting = one.instances[0].scheduler.admission.waiting
    assert all(not sequence.table for sequence in waiting)
    assert not running.done


def test_leaves_found_apart_leave_a_hole():
    sequence = Sequence(1, Request(request_id="a", prompt_ids=tuple(COMMON)), list(COMMON))
    sequence.chain = [bytes([leaf]) * 16 for leaf in range(8)]
    sequence.reuse({}, TOKENS)
    assert not sequence.table
    here = BlockRef(0, 5)
    sequence.reuse({3: here}, TOKENS)
    assert sequence.holes == [(0, 6)]
    sequence.reuse({0: here, 1: here}, TOKENS)
    assert sequence.holes == [(4, 6)]
    assert sequence.num_computed == 8
    assert sequence.hashes == sequence.chain[:4]
    assert [sequence.has(leaf) for leaf in range(5)] == [True, True, False, True, False]


def test_a_very_long_context_is_looked_for_and_given_back_in_messages_that_pass():
    assert len(encode(Pin(1 << 48, [bytes(16)] * MAX_LOOKED_UP, 9.0))) <= HEAD_BYTES
    assert len(encode(Draw(1 << 20, contents=[bytes(16)] * MAX_LOOKED_UP))) <= HEAD_BYTES
    one = cluster(4)
    holdings = one.instances[0].scheduler.holdings
    blocks = {block: block.to_bytes(16) for block in range(2 * MAX_GIVEN + 1)}
    holdings.store.recover(blocks)
    holdings.free(list(blocks))
    gives = [effect.message for effect in holdings.effects if isinstance(effect.message, Give)]
    assert all(len(encode(give)) <= HEAD_BYTES for give in gives)
    assert [block for give in gives for block in give.blocks] == [*blocks]
    assert [content for give in gives for content in give.contents] == [*blocks.values()]
