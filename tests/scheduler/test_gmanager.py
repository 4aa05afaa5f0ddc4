"""Protects the planner: it offers what it last heard, and only of whom it heard lately."""

import pytest

from engine import protocol as p
from engine.scheduler.gmanager import GManager


@pytest.fixture
def planner():
    return GManager(GManager.Config(max_offers=2, stale_s=3.0))


def beat(instance, num_lendable=5, *, epoch=1, host="a", cap=9):
    return p.Heartbeat(
        instance=instance,
        epoch=epoch,
        address=f"at-{instance}-{epoch}",
        host=host,
        num_blocks=10,
        num_free=num_lendable,
        num_lendable=num_lendable,
        num_lent=1,
        num_lend_cap=cap,
    )


def offer(planner, now, *, instance=0, host="a"):
    return planner.handle(p.BorrowQuery(77, instance, host, 4), now)


def offered(*args, **options):
    return [one.instance for one in offer(*args, **options).creditors]


def test_an_offer_repeats_what_the_pool_said(planner):
    planner.handle(beat(1, 5, epoch=4), 10.0)
    [creditor] = offer(planner, 10.0).creditors
    assert creditor == p.Creditor(1, 4, "at-1-4", "a", 5)


def test_near_pools_first_then_those_with_most_to_lend(planner):
    for message in (beat(1, 9, host="b"), beat(2, 3), beat(3, 4), beat(4, 4), beat(5, 0)):
        planner.handle(message, 10.0)
    assert offered(planner, 10.0) == [3, 4]
    assert offered(planner, 10.0, host="b") == [1, 3]


def test_nobody_is_offered_itself_but_its_number_of_query_comes_back(planner):
    planner.handle(beat(0, cap=7), 10.0)
    planner.handle(beat(1, 0, cap=9), 10.0)
    full = p.Creditor(1, 1, "at-1-1", "a", 0)  # named all the same: it may have to be greeted
    assert offer(planner, 10.0) == p.BorrowOffer(77, [full], 9)
    assert offer(planner, 10.0, instance=1) == p.BorrowOffer(
        77, [p.Creditor(0, 1, "at-0-1", "a", 5)], 7
    )


def test_a_cap_counts_all_pools_also_those_not_offered(planner):
    for instance in range(1, 6):
        planner.handle(beat(instance), 10.0)
    assert len(offer(planner, 10.0).creditors) == 2
    assert offer(planner, 10.0).num_lend_cap == 5 * 9


def test_a_silent_pool_is_not_offered_until_it_speaks_again(planner):
    planner.handle(beat(1), 10.0)
    assert offered(planner, 13.0) == [1]
    assert offered(planner, 13.1) == []
    assert offer(planner, 13.1).num_lend_cap == 0
    planner.handle(beat(1), 14.0)
    assert offered(planner, 14.0) == [1]


def test_an_older_epoch_is_ignored(planner):
    planner.handle(beat(1, 5, epoch=2), 10.0)
    planner.handle(beat(1, 9, epoch=1), 12.0)
    [creditor] = offer(planner, 12.0).creditors
    assert (creditor.epoch, creditor.num_lendable) == (2, 5)
    assert offered(planner, 13.5) == [], "an older epoch's word does not keep it fresh"


def test_a_newer_epoch_replaces_an_older_one(planner):
    planner.handle(beat(1, 5, epoch=2), 10.0)
    planner.handle(beat(1, 3, epoch=3), 10.0)
    [creditor] = offer(planner, 10.0).creditors
    assert (creditor.epoch, creditor.num_lendable) == (3, 3)


def members(planner, now):
    return [
        (one.instance, one.epoch, one.step_address)
        for one in planner.handle(p.MembersQuery(), now).members
    ]


def test_members_are_fresh_pools_with_the_address_of_their_ready_step(planner):
    planner.handle(beat(2, epoch=5), 10.0)
    planner.handle(beat(1), 12.0)
    assert members(planner, 12.0) == [(1, 1, ""), (2, 5, "")]
    planner.handle(p.Register(2, 5, "step-2"), 12.0)
    assert members(planner, 12.0) == [(1, 1, ""), (2, 5, "step-2")]
    assert members(planner, 14.0) == [(1, 1, "")]


def test_a_step_of_another_epoch_is_not_ready(planner):
    planner.handle(beat(2, epoch=5), 10.0)
    planner.handle(p.Register(2, 4, "old"), 10.0)
    assert members(planner, 10.0) == [(2, 5, "")]
    planner.handle(p.Register(2, 5, "new"), 10.0)
    planner.handle(p.Register(2, 4, "late"), 10.0)
    assert members(planner, 10.0) == [(2, 5, "new")]


def test_members_say_how_full_they_are(planner):
    planner.handle(beat(1, 5), 10.0)
    [member] = planner.handle(p.MembersQuery(), 10.0).members
    assert (member.num_blocks, member.num_free, member.num_lent, member.num_lendable) == (
        10,
        5,
        1,
        5,
    )


def test_members_are_what_was_said_last(planner):
    """Also for who asked before; a step that leaves, or begins again, is told of at once."""
    for at, said, free, address, leaves in (
        (10.0, beat(1, 5), 5, "", False),
        (10.1, p.Register(1, 1, "step"), 5, "step", False),
        (10.2, beat(1, 3), 3, "step", False),
        (10.3, p.Load(1, 1, 0, 0, 0, num_draining=1), 3, "step", True),
        (10.4, beat(1, 4, epoch=2), 4, "", True),
        (10.5, p.Load(1, 2, 0, 0, 0), 4, "", False),
    ):
        planner.handle(said, at)
        [member] = planner.handle(p.MembersQuery(), at).members
        assert (member.num_free, member.step_address, member.draining) == (free, address, leaves)


def test_it_starts_knowing_nothing_and_goodbye_is_no_question(planner):
    assert members(planner, 10.0) == []
    assert offer(planner, 10.0) == p.BorrowOffer(77, [], 0)
    assert planner.handle(p.Goodbye(), 10.0) is None
