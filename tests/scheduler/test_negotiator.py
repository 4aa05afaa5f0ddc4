"""Protects promise 8 on the debtor's side: all blocks or none, and no granted loan is forgotten."""

import pytest
from msgspec.structs import replace
from negotiator_harness import HOME, Talk, creditor, need

from engine import protocol as p
from engine.scheduler.effects import Connect, ToPlanner, ToPool
from engine.scheduler.local_only import LocalOnly
from engine.scheduler.negotiator import SUSPECT_S, NotPlaced


@pytest.fixture
def talk():
    return Talk()


def test_it_asks_the_planner_then_reserves_where_the_placement_chose(talk):
    talk.negotiator.borrow(5, need(6), talk.now)
    [query] = talk.effects
    assert query == ToPlanner(p.BorrowQuery(query.message.query, HOME, "a", 4, num_own=4))
    talk.offer(creditor(1, 3), creditor(2, 9))
    assert talk.effects[1:] == [
        Connect(2, "at-2"),
        ToPool(2, p.Reserve(talk.reservation(2), 4, 30.0)),
    ]


def test_all_granted_is_placed(talk):
    talk.borrow(10, creditor(1, 3), creditor(2, 5))
    talk.grant(2, 20)
    assert not talk.outcomes
    talk.grant(1, 10)
    [placed] = talk.outcomes
    assert placed.holders == (2,) * 5 + (1,) * 3 + (HOME,) * 2
    assert {at: grant.loan for at, grant in placed.grants.items()} == {1: 10, 2: 20}
    assert (1, 10) in talk.debts
    assert (2, 20) in talk.debts
    assert not talk.released()


def test_after_a_refusal_it_chooses_again_with_the_number_said(talk):
    talk.borrow(8, creditor(1, 5), creditor(2, 4))
    assert talk.reserved() == [(1, 5), (2, 1)]
    talk.grant(2, 20)
    talk.refuse(1, 3)
    assert talk.released() == [(2, 20)]
    assert len(talk.debts) == 0
    assert talk.reserved()[-2:] == [(2, 4), (1, 2)]
    assert not talk.outcomes


def test_it_hears_all_and_keeps_what_it_has_chosen_again(talk):
    talk.borrow(14, creditor(1, 5), creditor(2, 5), creditor(3, 4), creditor(4, 3))
    assert talk.reserved() == [(1, 5), (2, 5), (3, 2)]
    talk.refuse(2, 1)
    assert len(talk.reserved()) == 3, "3 and 1 may have less than they said as well"
    talk.grant(1, 10)
    talk.refuse(3, 3)
    assert talk.reserved()[3:] == [(3, 3), (4, 3), (2, 1)]
    talk.grant(3, 30)
    talk.grant(4, 40)
    talk.grant(2, 20)
    [placed] = talk.outcomes
    assert placed.holders == (1,) * 5 + (3,) * 3 + (4,) * 3 + (2,) + (HOME,) * 2
    assert {at: grant.loan for at, grant in placed.grants.items()} == {1: 10, 2: 20, 3: 30, 4: 40}
    assert not talk.released()


def test_it_gives_all_back_when_the_others_have_too_little(talk):
    talk.borrow(10, creditor(1, 5), creditor(2, 4))
    talk.grant(1, 10)
    talk.refuse(2, 2)
    [failed] = talk.outcomes
    assert isinstance(failed, NotPlaced)
    assert talk.released() == [(1, 10)]
    assert len(talk.debts) == 0


def test_who_says_none_is_not_asked_again(talk):
    talk.borrow(6, creditor(1, 5), creditor(2, 4))
    talk.refuse(1, 0)
    assert talk.reserved() == [(1, 4), (2, 4)]
    talk.refuse(2, 1)
    [failed] = talk.outcomes
    assert "6 blocks wanted" in failed.reason
    assert not failed.hopeless


def test_who_can_use_a_part_takes_what_there_is(talk):
    talk.borrow(10, creditor(1, 3), creditor(2, 2), part=True)
    assert talk.reserved() == [(1, 3), (2, 2)]
    talk.grant(2, 20)
    talk.refuse(1, 1)
    assert talk.reserved()[2:] == [(1, 1)]
    talk.grant(1, 10)
    [placed] = talk.outcomes
    assert placed.holders == (2, 2, 1, HOME, HOME)


def test_a_part_of_nothing_is_refused(talk):
    talk.borrow(10, creditor(1, 0), part=True)
    [failed] = talk.outcomes
    assert "10 blocks wanted" in failed.reason


def test_three_rounds_are_enough(talk):
    talk.borrow(6, creditor(1, 5))
    for _ in range(3):
        talk.refuse(1, 5)
    [failed] = talk.outcomes
    assert failed.reason == "creditors changed their mind 3 times"
    assert not failed.hopeless


def test_a_late_grant_of_a_deal_given_up_goes_back(talk):
    talk.borrow(6, creditor(1, 5))
    late = talk.granted(1, 10)
    talk.negotiator.cancel(5)
    talk.negotiator.on_granted(1, late, talk.now)
    assert talk.released() == [(1, 10)]
    assert not talk.outcomes
    assert len(talk.debts) == 0


def test_the_same_grant_again_changes_nothing(talk):
    talk.borrow(8, creditor(1, 4), creditor(2, 4))
    grant = talk.granted(1, 10)
    for _ in range(2):
        talk.negotiator.on_granted(1, grant, talk.now)
    talk.grant(2, 20)
    talk.negotiator.on_granted(1, grant, talk.now)
    assert len(talk.outcomes) == 1
    assert not talk.released()


def test_the_same_offer_again_changes_nothing(talk):
    talk.borrow(6, creditor(1, 5))
    talk.offer(creditor(2, 9))
    assert talk.reserved() == [(1, 4)]


def test_a_lost_creditor_is_replaced(talk):
    talk.borrow(8, creditor(1, 4), creditor(2, 3), creditor(3, 3))
    talk.grant(1, 10)
    talk.debts.forget(1)
    talk.negotiator.on_lost(1, talk.now)
    assert talk.outcomes == []
    talk.grant(2, 20)
    assert talk.reserved()[2:] == [(2, 3), (3, 3)]
    assert talk.released() == [(2, 20)]


def test_a_creditor_that_is_lost_is_not_waited_for(talk):
    talk.borrow(8, creditor(1, 4), creditor(2, 3), creditor(3, 3))
    talk.grant(1, 10)
    talk.negotiator.on_lost(2, talk.now)
    assert talk.reserved()[2:] == [(3, 2)]
    assert not talk.released()


def test_a_grant_that_ended_is_not_counted_on(talk):
    talk.borrow(8, creditor(1, 4), creditor(2, 3), creditor(3, 3))
    talk.grant(1, 10)
    talk.negotiator.on_gone({(1, 10)}, talk.now)
    assert (1, 10) not in talk.debts
    talk.grant(2, 20)
    assert talk.reserved()[2:] == [(2, 3), (3, 3)]


def test_a_silent_planner_is_asked_again_and_ends_the_deal_at_last(talk):
    talk.borrow(8, offer=False)
    for _ in range(4):
        talk.now += 1.1
        talk.negotiator.tick(talk.now)
    queries = [one.message for one in talk.effects if isinstance(one, ToPlanner)]
    assert len(queries) == 5
    assert len({query.query for query in queries}) == 1
    talk.offer(creditor(1, 6))
    assert talk.reserved() == [(1, 6)]
    talk.borrow(8, sequence=6, offer=False)
    talk.negotiator.cancel(5)
    talk.negotiator.tick(talk.now + 5.0)
    [failed] = talk.outcomes
    assert failed.reason == "no answer from the planner in 5 s"
    assert not failed.hopeless


def test_a_silent_creditor_is_left_out_and_what_it_grants_late_goes_back(talk):
    talk.borrow(8, creditor(1, 4), creditor(2, 3), creditor(3, 3))
    assert talk.reserved() == [(1, 4), (2, 2)]
    talk.grant(1, 10)
    late = talk.granted(2, 20)
    talk.now += 1.1
    talk.negotiator.tick(talk.now)
    assert talk.reserved()[2:] == [(3, 2)]
    talk.negotiator.on_granted(2, late, talk.now)
    assert talk.released() == [(2, 20)]
    talk.grant(3, 30)
    [placed] = talk.outcomes
    assert set(placed.grants) == {1, 3}


def test_who_was_lost_is_not_asked_until_it_is_another_or_some_time_has_passed(talk):
    talk.borrow(8, creditor(1, 9), creditor(2, 4))
    talk.negotiator.on_lost(1, talk.now)
    assert isinstance(talk.outcomes.pop(), NotPlaced)  # 2 alone has too little
    talk.borrow(6, creditor(1, 9), creditor(2, 4), sequence=6)
    assert talk.reserved()[-1] == (2, 4)
    talk.borrow(6, replace(creditor(1, 9), epoch=2), creditor(2, 4), sequence=7)
    assert talk.reserved()[-1] == (1, 4)
    talk.now += SUSPECT_S
    talk.borrow(6, creditor(1, 9), creditor(2, 4), sequence=8)
    assert talk.reserved()[-1] == (1, 4)


def test_a_canceled_deal_has_no_outcome_even_when_it_was_ready(talk):
    """Two deals end at once, and acting on the first ends the second."""
    talk.borrow(6, creditor(1, 5))
    talk.grant(1, 10)
    assert talk.outcomes
    talk.negotiator.cancel(5)
    assert not talk.outcomes
    assert talk.released() == [(1, 10)]
    assert len(talk.debts) == 0


@pytest.mark.parametrize(
    ("num_blocks", "cap", "hopeless"),
    [(14, 6, False), (15, 6, True), (10, 0, False), (11, 0, True)],
)
def test_hopeless_is_what_all_pools_together_could_not_hold(talk, num_blocks, cap, hopeless):
    """The own pool has 10 blocks, 2 of them work; of these only 4 are free now."""
    talk.borrow(num_blocks, cap=cap)
    [failed] = talk.outcomes
    assert failed.hopeless == hopeless


def test_who_never_borrows_does_not_count_on_others():
    talk = Talk(LocalOnly(LocalOnly.Config()))
    talk.borrow(11, creditor(1, 99), cap=99)
    talk.borrow(10, creditor(1, 99), sequence=6, cap=99)
    assert [failed.hopeless for failed in talk.outcomes] == [True, False]


def test_what_fits_at_home_by_now_borrows_nothing(talk):
    talk.borrow(4)
    [placed] = talk.outcomes
    assert placed.holders == (HOME,) * 4
    assert not placed.grants


def test_a_grant_called_back_before_the_deal_is_done_goes_back(talk):
    talk.borrow(13, creditor(1, 5), creditor(2, 6), creditor(3, 9))
    first = talk.reserved()
    instance = first[0][0]
    talk.grant(instance, 20)
    talk.negotiator.on_recall(instance, 21, talk.now)
    assert not talk.released()
    talk.negotiator.on_recall(instance, 20, talk.now)
    assert talk.released() == [(instance, 20)]
    assert len(talk.debts) == 0
    talk.grant(2, 30)
    again = talk.reserved()[len(first) :]
    assert again
    assert instance not in [to for to, _ in again]
