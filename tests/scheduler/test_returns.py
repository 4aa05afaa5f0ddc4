"""Protects promises 4 and 6 of leaves that are called home: in time, whole, or computed again.

The creditor's deadline stands whatever happens here; the planner's wish never costs a token.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns_harness import HOME, Home
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.core import BlockRef
from engine.scheduler.returns import DRAW_S, DROP_SHARE, MAX_FETCHES, NEVER


def test_a_leaf_fetched_in_time_is_used_at_home_and_its_slot_goes_back():
    home = Home(num_blocks=1)
    one = home.sequence(1, 1, 2)
    version = one.table_version
    home.recall(one, 1, [1], within_s=4.0)
    home.tick()
    [fetch] = home.fetches.values()
    assert fetch.ref == one.table[1]
    assert not home.released, "it is used there until it is here"
    home.arrive(1, 1)
    assert one.table[1] == BlockRef(HOME, fetch.block)
    assert one.table_version > version
    assert home.store.hash_of(fetch.block) == one.hashes[1]
    assert home.released == [(1, 1, 1)]
    assert not one.returning
    assert not one.holes
    home.check()
    home.tick(100.0)
    assert not one.holes, "it is home: its deadline is over"


@pytest.mark.parametrize("under_way", [True, False])
def test_what_is_not_home_in_time_is_dropped_before_the_creditor_takes_it(under_way):
    home = Home(num_blocks=int(under_way))
    one = home.sequence(1, 1)
    home.recall(one, 1, [0], within_s=4.0)
    home.tick(4.0 * (1 - DROP_SHARE) - 0.01)
    assert not one.holes
    assert len(home.fetches) == under_way
    home.tick(0.01)
    assert one.holes == [(0, 2)]
    assert home.released == [(1, 1, 0)]
    assert home.cancelled == [(1, 0)] * under_way
    assert home.store.num_free == under_way
    home.check()
    home.arrive(1, 0)  # it was on its way
    assert one.holes == [(0, 2)]
    home.check()


@given(deadlines=st.lists(st.sampled_from([None, 1.0, 2.0, 8.0]), min_size=1, max_size=4))
def test_the_earliest_deadline_stands(deadlines):
    """None: the planner's wish, which has no deadline."""
    home = Home()
    one = home.sequence(1)
    for within_s in deadlines:
        if within_s is None:
            home.settle(1, 1)
        else:
            home.recall(one, 1, [0], within_s)
    due = [within_s for within_s in deadlines if within_s is not None]
    wanted = home.now + min(due) * (1 - DROP_SHARE) if due else NEVER
    assert one.returning == {0: wanted}


def test_slots_that_no_leaf_has_yet_are_given_back_and_their_moves_stop():
    home = Home()
    one = home.sequence(HOME, HOME, targets={0: 1, 1: 1})
    assert home.moves == {(1, 0), (1, 1)}
    home.recall(one, 1, [0], within_s=4.0)
    assert home.cancelled == [(1, 0)]
    assert home.released == [(1, 1, 0)]
    assert one.targets.keys() == one.moving == {1}
    assert not one.returning
    home.check()


def test_a_recall_is_of_its_loan_at_its_creditor_only():
    home = Home()
    one, other = home.sequence(1, 2), home.sequence(1, 2)
    home.recall(one, 1, [0], within_s=4.0)
    assert (one.returning.keys(), other.returning.keys()) == ({0}, set())


LENT = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=3)


@given(holders=LENT, called=st.integers(0, 3), num_blocks=st.integers(0, 8))
def test_the_planners_wish_is_for_the_youngest_leaves_and_costs_none(holders, called, num_blocks):
    home = Home()
    for one in holders:
        home.sequence(*one)
    first = home.sequences[0]
    home.recall(first, 1, [0] if called else [], within_s=1000.0)
    due = {(1, leaf) for leaf in first.returning}
    home.settle(1, num_blocks)
    lent = [
        (-leaf, number)
        for number, one in enumerate(holders, 1)
        for leaf, instance in enumerate(one)
        if instance == 1 and (number, leaf) not in due
    ]
    wished = {
        (one.number, leaf)
        for one in home.sequences
        for leaf, drop_at in one.returning.items()
        if drop_at == NEVER
    }
    assert wished == {(number, -leaf) for leaf, number in sorted(lent)[:num_blocks]}
    for _ in range(3):
        home.tick(100.0)
    assert not any(one.holes for one in home.sequences)
    home.check()


def test_no_more_than_a_few_are_fetched_at_once_and_the_most_pressing_first():
    home = Home(num_blocks=20)
    wished, called = home.sequence(*[1] * 6), home.sequence(*[2] * 6)
    home.settle(1, 6)
    home.recall(called, 2, range(1, 6), within_s=9.0)
    home.recall(called, 2, [0], within_s=5.0)
    home.tick()
    assert len(home.fetches) == MAX_FETCHES
    assert list(home.fetches)[:6] == [(2, leaf) for leaf in range(6)]
    home.tick()
    assert len(home.fetches) == MAX_FETCHES
    home.arrive(2, 0)
    home.arrive(2, 1)
    home.tick()
    assert len(home.fetches) == MAX_FETCHES
    home.arrive(*list(home.fetches)[-1])
    assert len(wished.returning) == 5


def test_without_room_the_pool_is_asked_and_then_the_sequence_that_waits_is_named():
    home = Home()
    one, wished = home.sequence(1, 1), home.sequence(2)
    home.recall(one, 1, [0, 1], within_s=1000.0)
    home.settle(2, 1)
    assert home.tick() is None
    assert home.draws == [3]
    assert home.tick(DRAW_S) is None, "one draw at a time"
    home.give(1)
    assert home.tick(DRAW_S) is None, "the pool had some: it is asked again"
    assert list(home.fetches) == [(1, 0)]
    home.give(0)
    assert home.tick(DRAW_S) is one, "it has none: lend others on, or the leaf is lost"
    assert one.returning.keys() == {0, 1}
    assert not wished.returning, "a wish is not worth that"
    assert not one.holes
    assert not wished.holes
    home.check()


@pytest.mark.parametrize("how", ["unknown", "replaced"])
def test_what_arrives_for_a_sequence_that_lost_interest_frees_its_block(how):
    home = Home(num_blocks=1)
    one = home.sequence(1, 1)
    home.recall(one, 1, [0], within_s=4.0)
    home.tick()
    if how == "replaced":
        one.table[0] = one.table[0]._replace(slot=9)
    home.arrive(1, 0, known=how != "unknown")
    assert home.store.num_free == 1
    assert not home.released
    home.arrive(1, 0)
    assert home.store.num_free == 1


def test_a_sequence_that_ends_stops_its_fetches_and_frees_their_blocks():
    home = Home(num_blocks=2)
    one = home.sequence(1, 1)
    home.recall(one, 1, [0, 1], within_s=4.0)
    home.tick()
    home.drop(one)
    assert sorted(home.cancelled) == [(1, 0), (1, 1)]
    assert home.store.num_free == 2
    home.check()


def test_a_leaf_without_room_at_home_goes_to_a_third_instance_and_no_token_is_computed_again():
    three = Cluster([8, 30, 30], max_step_tokens=4, grow_blocks=4)
    answer = three.submit(0, [100, *range(1, 40)], 8)
    while not answer.tokens:
        three.round()
    [one] = three.instances[0].scheduler.running
    [(creditor, loan)] = {(ref.instance, ref.loan) for ref in one.table if ref.loan}
    slots = [ref.slot for ref in one.table if ref.loan][-4:]
    three.channels[0, creditor].down.append(p.Recall(loan, slots, 60.0))
    for _ in range(20):
        three.round()
        three.now += 0.05
        left = {ref.slot for ref in one.table if (ref.instance, ref.loan) == (creditor, loan)}
        if not left & {*slots}:
            break
    else:
        raise AssertionError(f"slots {slots} are still used")
    assert {ref.instance for ref in one.table} == {0, 1, 2}
    assert not one.holes
    assert not one.recomputed_tokens
    while not answer.done:
        three.round()
    assert (answer.tokens, answer.finish_reason) == answer.expected()
