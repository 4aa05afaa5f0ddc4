"""A gateway's members outlive a planner's restart, and no longer than they should."""

from engine.protocol import Member
from engine.server.roll import AWAY_S, Roll


def member(instance, address="step", epoch=1, draining=False):
    return Member(instance, epoch, address, 9, 9, 0, 0, 0, "pool", draining)


def test_a_new_planner_that_knows_nobody_yet_takes_nobody_away():
    roll, both = Roll(), [member(0), member(1)]
    assert roll.call(both, 0.0) == both
    assert roll.call([], 0.5) == both
    assert roll.call([member(0, "")], 1.0) == both  # its pool was heard, its step not yet
    assert roll.call(both, 1.5) == both


def test_who_stays_silent_is_gone():
    roll = Roll()
    roll.call([member(0), member(1)], 0.0)
    assert roll.call([member(0)], AWAY_S) == [member(0)]
    assert roll.call([member(0)], AWAY_S + 1.0) == [member(0)]


def test_a_new_epoch_a_new_address_and_a_leave_are_believed_at_once():
    for new in (member(0, "", epoch=2), member(0, "other"), member(0, "", draining=True)):
        roll = Roll()
        roll.call([member(0)], 0.0)
        assert roll.call([new], 0.1) == [new]
    roll = Roll()
    roll.call([member(0, draining=True)], 0.0)
    assert roll.call([], 0.1) == []
