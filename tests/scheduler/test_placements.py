"""Protects what every placement promises, and what the ledger promises besides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CapacityError
from engine.protocol import Creditor
from engine.scheduler import PLACEMENTS
from engine.scheduler.balanced import PIECE, BalancedPlacement
from engine.scheduler.base import MIN_WORKING, Need
from engine.scheduler.ledger import LedgerPlacement

OWNER = 3
LEDGER = LedgerPlacement(LedgerPlacement.Config())
BALANCED = BalancedPlacement(BalancedPlacement.Config())


@st.composite
def needs(draw):
    num_local = draw(st.integers(0, 12), label="num_local")
    return Need(
        owner=OWNER,
        host=draw(st.sampled_from("ab")),
        num_blocks=draw(st.integers(1, 30), label="num_blocks"),
        num_local=num_local,
        num_pool=num_local + draw(st.integers(0, 4)),
        working_blocks=draw(st.integers(0, 6), label="working_blocks"),
    )


def creditor(instance, num_lendable, host="a"):
    return Creditor(instance, 1, f"at-{instance}", host, num_lendable)


CREDITORS = st.lists(
    st.builds(creditor, st.integers(0, 9), st.integers(0, 9), st.sampled_from("ab")),
    max_size=6,
    unique_by=lambda one: one.instance,
)
"""may name the owner itself, and some that lend nothing"""


def need(num_blocks, num_local, working_blocks=2):
    return Need(
        owner=OWNER,
        host="a",
        num_blocks=num_blocks,
        num_local=num_local,
        num_pool=num_local,
        working_blocks=working_blocks,
    )


def answer(placement, *args):
    try:
        return placement.place(*args)
    except CapacityError as error:
        return str(error)


@pytest.mark.parametrize("name", PLACEMENTS.names())
@given(need=needs(), creditors=CREDITORS)
def test_every_leaf_is_placed_or_the_need_is_refused_with_numbers(name, need, creditors):
    kind = PLACEMENTS.load(name)
    placement = kind(kind.Config())
    before = list(creditors)
    holders = answer(placement, need, creditors)
    assert (
        holders == answer(placement, need, creditors) == answer(kind(kind.Config()), need, before)
    )
    assert creditors == before
    if isinstance(holders, str):
        assert f"{need.num_blocks} blocks wanted" in holders
        assert str(need.num_local) in holders
        assert need.num_blocks > need.num_local
        return
    assert len(holders) == need.num_blocks
    assert holders[-1] == OWNER
    lendable = {one.instance: one.num_lendable for one in creditors}
    for instance in set(holders) - {OWNER}:
        assert holders.count(instance) <= lendable[instance]
    kept = holders.count(OWNER)
    working = min(need.working_blocks, MIN_WORKING) if kept < need.num_blocks else 0
    assert kept + working <= need.num_local


@pytest.mark.parametrize("placement", [LEDGER, BALANCED], ids=["ledger", "balanced"])
@given(need=needs(), creditors=CREDITORS)
def test_a_place_is_found_whenever_all_together_have_one(placement, need, creditors):
    others = [one for one in creditors if one.instance != OWNER]
    kept = need.num_local - min(need.working_blocks, MIN_WORKING)
    most = kept + sum(one.num_lendable for one in others)
    fits = need.num_blocks <= need.num_local or (kept >= 1 and need.num_blocks <= most)
    assert (not isinstance(answer(placement, need, creditors), str)) == fits


@given(need=needs(), creditors=CREDITORS)
def test_ledger_lends_the_earliest_leaves_in_runs_and_no_more_than_it_must(need, creditors):
    holders = answer(LEDGER, need, creditors)
    if isinstance(holders, str):
        return
    if need.num_blocks <= need.num_local:
        assert holders == (OWNER,) * need.num_blocks
        return
    runs = list(dict.fromkeys(holders))
    assert list(holders) == sorted(holders, key=runs.index), "a run is torn"
    assert runs[-1] == OWNER
    if len(runs) > 1 + 3:  # the best three were too few, and so were all but the last
        lendable = {one.instance: one.num_lendable for one in creditors}
        most = sum(lendable[instance] for instance in runs[:-2])
        assert most < need.num_blocks - holders.count(OWNER)
    others = sum(one.num_lendable for one in creditors if one.instance != OWNER)
    kept = holders.count(OWNER)
    assert kept >= max(1, need.num_local - need.working_blocks)
    assert kept == need.num_kept or need.num_blocks - kept == others, "it works in too few"


def test_a_prompt_is_computed_in_few_own_blocks_when_most_are_lent():
    """An instance that has lent nearly all of its pool can still borrow for its own requests."""
    assert LEDGER.place(need(9, 3, working_blocks=33), [creditor(0, 20)]) == (0,) * 8 + (OWNER,)
    assert LEDGER.place(need(9, 3, working_blocks=33), [creditor(0, 8)]) == (0,) * 8 + (OWNER,)
    assert LEDGER.place(need(9, 7, working_blocks=33), [creditor(0, 4)]) == (0,) * 4 + (OWNER,) * 5
    assert isinstance(answer(LEDGER, need(9, 2, working_blocks=33), [creditor(0, 20)]), str)


@given(need=needs(), creditors=CREDITORS)
def test_ledger_turns_to_near_and_free_creditors_first(need, creditors):
    holders = answer(LEDGER, need, creditors)
    if isinstance(holders, str):
        return
    by_instance = {one.instance: one for one in creditors}
    asked = [by_instance[i] for i in dict.fromkeys(holders) if i != OWNER]
    rank = [(one.host != need.host, -one.num_lendable) for one in asked]
    assert rank == sorted(rank)
    if asked:
        for other in creditors:
            if other not in asked and other.instance != OWNER and other.num_lendable:
                assert (other.host != need.host, -other.num_lendable) >= rank[-1]


def test_ledger_by_example():
    creditors = [creditor(0, 3, "b"), creditor(1, 2), creditor(2, 3), creditor(OWNER, 9)]
    assert LEDGER.place(need(11, 5), creditors) == (2, 2, 2, 1, 1, 0, 0, 0, 3, 3, 3)


def test_ledger_ends_runs_on_nodes_of_the_merge_tree_when_there_is_room():
    creditors = [creditor(0, 30), creditor(1, 27), creditor(2, 27)]
    holders = LEDGER.place(need(60, 5), creditors)
    assert [holders.count(instance) for instance in (0, 1, 2)] == [16, 16, 25]
    assert holders == tuple(sorted(holders[:57])) + (OWNER,) * 3


def test_what_works_on_its_way_out_cannot_stay():
    with pytest.raises(CapacityError, match=r"6 blocks wanted: 0 can stay at home \(of 2 free, 2"):
        LEDGER.place(need(6, 2), [creditor(1, 9)])


def test_ledger_asks_more_than_three_creditors_only_when_it_must():
    creditors = [creditor(number, 2) for number in (0, 1, 2, 4, 5)]
    assert len(set(LEDGER.place(need(10, 5), creditors))) == 1 + 4
    assert len(set(LEDGER.place(need(8, 5), creditors))) == 1 + 3


@given(
    num_blocks=st.integers(5, 400),
    near=st.lists(st.integers(1, 90), max_size=6),
    far=st.lists(st.integers(1, 90), max_size=6),
)
def test_balanced_asks_all_of_a_host_for_as_little_as_it_can(num_blocks, near, far):
    creditors = [creditor(10 + number, most) for number, most in enumerate(near)]
    creditors += [creditor(20 + number, most, "b") for number, most in enumerate(far)]
    holders = answer(BALANCED, need(num_blocks, 4), creditors)
    if isinstance(holders, str):
        return
    lent = {one: holders.count(one.instance) for one in creditors}
    able = near if sum(near) >= num_blocks - holders.count(OWNER) else near + far
    share = max(lent.values(), default=0)
    if share > PIECE:  # with a piece less each, so many would not have done
        less = (share - 1) // PIECE * PIECE
        assert sum(min(most, less) for most in able) < num_blocks - holders.count(OWNER)
    assert set(holders) <= {OWNER, *range(10, 20)} or able != near


def test_balanced_by_example():
    near = [creditor(number, 60) for number in range(4, 8)]
    far = [creditor(9, 90, "b")]
    holders = BALANCED.place(need(66, 4), near + far)
    assert [holders.count(number) for number in range(4, 8)] == [16, 16, 16, 16]
    assert BALANCED.place(need(12, 4), near + far) == (4,) * 10 + (OWNER,) * 2
    assert set(BALANCED.place(need(300, 4), near + far)) == {4, 5, 6, 7, 9, OWNER}
