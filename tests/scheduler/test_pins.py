"""Protects promises 1 and 6 of a search for cached blocks: what is found is used, or given back.

A pool's answer may come twice, late, for nobody or not at all, and its loan may end meanwhile.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pins_harness import HOME, LEASE_S, Search, check_table, given_back, member, prefill
from scheduler_checks import TOKENS

from engine.core import BlockRef, Request
from engine.scheduler.effects import Connect
from engine.scheduler.pins import MAX_POOLS, SILENT_S, WAIT_S
from engine.scheduler.prices import FEW
from engine.scheduler.sequence import NOWHERE, Sequence

# --- who is asked for what ----------------------------------------------------------------------


def test_whoever_is_likely_to_have_the_first_leaves_is_asked_the_likeliest_first():
    search = Search(9)
    assert not search.begun, "nobody is known"
    has = search.sequence.chain
    without_address = member(9, has, "")
    middle = member(8, has[2:])
    others = [member(3, has[:2]), member(4, has[:3]), member(5, has), member(6, has[:1])]
    others.append(member(7, has[:2]))
    search.pins.on_members([member(HOME, has), member(20, []), without_address, middle, *others])
    assert search.search({0, 1, 2, 3})
    assert list(search.asked()) == [5, 4, 3]
    assert MAX_POOLS == 3
    assert [pin.contents for pin in search.asked().values()] == [has] * MAX_POOLS
    assert all(pin.lease_s == LEASE_S for pin in search.asked().values())
    assert len({pin.reservation for pin in search.asked().values()}) == MAX_POOLS
    connects = [one.instance for one in search.effects if isinstance(one, Connect)]
    assert connects == [5, 4, 3]
    assert all(isinstance(one, Connect) for one in search.effects[::2])


def test_nobody_is_asked_for_one_leaf_of_many():
    """A sketch is wrong about one now and then, hardly about two."""
    search = Search(9)
    search.pins.on_members([member(1, search.sequence.chain[:1])])
    assert not search.search({0, 1, 2, 3})
    assert search.search({0}), "there is no more to look for"


def test_what_is_at_home_meanwhile_is_used_there_and_given_back():
    search = Search(9, 1)
    search.answer(1, [0, 1, 2])
    search.sequence.reuse({1: BlockRef(HOME, 7)}, TOKENS)
    assert search.result() is search.sequence
    assert search.released() == [(1, 11, [1])]
    assert [(ref.instance, ref.slot) for ref in search.sequence.table] == [
        (1, 0),
        (HOME, 0),
        (1, 2),
    ]
    assert search.sequence.loans == {(1, 11): 2}


# --- what becomes of the answers ----------------------------------------------------------------

LEAVES = st.sets(st.integers(0, 5)).map(sorted)


@given(
    has=st.dictionaries(st.integers(1, 3), LEAVES, min_size=1, max_size=3),
    order=st.randoms(use_true_random=False),
    lost=st.sets(st.integers(1, 3)),
    lost_at=st.integers(0, 3),
    cancel=st.booleans(),
)
def test_what_is_found_is_in_the_table_once_and_all_else_is_given_back(
    has, order, lost, lost_at, cancel
):
    """``lost``: pools that end after ``lost_at`` answers have come."""
    search = Search(6 * TOKENS + 1, *has)
    instances = list(has)
    order.shuffle(instances)
    slots, found = set(), {}
    for number, instance in enumerate([*instances, None]):
        if number == lost_at:
            for gone in lost:
                search.pins.on_lost({(gone, 10 + gone)}, gone)
                search.debts.remove(gone, 10 + gone)
            slots = {one for one in slots if one[0] not in lost}
            found = {leaf: one for leaf, one in found.items() if one[0] not in lost}
        if instance is None or (number >= lost_at and instance in lost):
            continue
        search.answer(instance, has[instance])
        for slot, leaf in enumerate(has[instance]):
            slots.add((instance, 10 + instance, slot))
            found.setdefault(leaf, (instance, 10 + instance, slot))
    if cancel:
        search.pins.cancel(search.sequence)
        assert search.result(WAIT_S) is None
        found = {}
    else:
        assert search.result(WAIT_S) is search.sequence
    check_table(search.sequence, found)
    kept = {*found.values()}
    assert given_back(search, slots) == slots - kept
    assert {(at, loan) for at, loan, _ in kept} == search.debts._debts.keys()
    assert search.result(WAIT_S) is None, "a search ends once"


def test_what_is_found_is_read_where_it_lies_under_its_own_generation():
    search = Search(9, 2)
    search.answer(2, [0, 3])
    assert search.result() is search.sequence
    first, last = BlockRef(2, 200, 12, 0, 3), BlockRef(2, 203, 12, 1, 3)
    assert search.sequence.table == [first, NOWHERE, NOWHERE, last]
    assert search.sequence.hashes == search.asked()[2].contents
    assert search.debts._debts[2, 12].ends < 100.0 + LEASE_S, "counted from when it was asked"


def test_a_search_waits_for_all_it_asked_but_not_long():
    search = Search(9, 1, 2)
    search.answer(1, [0])
    assert search.result(WAIT_S * 0.99) is None
    assert search.result(WAIT_S * 0.01) is search.sequence
    assert [ref.instance for ref in search.sequence.table] == [1]


def test_who_was_silent_is_not_asked_for_a_while_or_until_it_speaks():
    search = Search(9, 1, 2)
    search.answer(1, [])
    search.result(WAIT_S)
    search.effects.clear()
    assert search.search({0, 1, 2})
    assert list(search.asked()) == [1]
    search.answer(1, [])
    search.result()
    search.now += SILENT_S
    search.effects.clear()
    assert search.search({0, 1, 2})
    assert list(search.asked()) == [1, 2]
    search.result(WAIT_S)
    search.answer(2, [])
    search.effects.clear()
    assert search.search({0, 1, 2})
    assert list(search.asked()) == [2], "late, but it speaks"


def test_nobody_is_asked_where_it_is_cheaper_to_compute():
    search = Search(9)
    search.pins.on_members([member(1, search.sequence.chain)])
    assert search.search({0, 1, 2, 3})
    for _ in range(60):
        search.prices.timed(prefill(FEW), [1e-6], 0.0)
    assert not search.search({0, 1, 2, 3})


def test_a_pool_that_is_lost_is_not_waited_for():
    search = Search(9, 1, 2)
    search.answer(1, [])
    search.pins.on_lost(set(), 2)
    assert search.result() is search.sequence
    assert not search.sequence.table


def test_what_is_lost_while_it_is_searched_is_a_hole_and_not_given_back():
    search = Search(9, 1, 2)
    search.answer(1, [0, 2])
    search.debts.remove(1, 11)
    search.pins.on_lost({(1, 11)})
    search.answer(2, [1])
    assert search.result() is search.sequence
    assert [ref.instance for ref in search.sequence.table] == [NOWHERE.instance, 2]
    assert search.sequence.loans == {(2, 12): 1}
    assert not search.released()


@pytest.mark.parametrize("when", ["late", "of another search", "without one", "cancelled"])
def test_what_is_pinned_for_nobody_is_given_back_at_once(when):
    search = Search(9, 1, 2)
    if when == "late":
        assert search.result(WAIT_S) is search.sequence
    elif when == "without one":
        search = Search(1)
    elif when == "cancelled":
        search.pins.cancel(search.sequence)
    strange = {} if when in ("late", "cancelled") else {"reservation": 77}
    search.answer(2, [0, 1], **strange)
    assert search.released() == [(2, 12, [])]
    assert not search.sequence.table
    assert not len(search.debts)
    search.answer(1, [], reservation=78)
    assert len(search.released()) == 1, "nothing was pinned: there is nothing to give back"


@pytest.mark.parametrize("leaves", [[0, 2], [0]])
def test_the_same_answer_twice_gives_nothing_back_that_is_in_use(leaves):
    search = Search(9, 1, 2)
    search.answer(1, leaves)
    pin = search.asked()[1].reservation
    search.answer(1, leaves, reservation=pin)
    search.answer(2, [])
    search.result()
    search.answer(1, leaves, reservation=pin)
    assert not search.released()
    assert search.sequence.loans == {(1, 11): len(leaves)}


def test_what_is_beyond_the_question_is_given_back():
    search = Search(9, 1)
    search.answer(1, [3, 4])
    assert search.released() == [(1, 11, [1])]
    search.result()
    assert search.sequence.loans == {(1, 11): 1}


def test_the_end_of_another_sequence_ends_no_search():
    search = Search(9, 1)
    other = Sequence(2, Request(request_id="b", prompt_ids=(1,)), [1])
    search.answer(1, [0])
    search.pins.cancel(other)
    assert search.result() is search.sequence
