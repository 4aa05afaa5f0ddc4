"""Protects each refusal and each boundary of the RManager, one at a time."""

import pytest
from rmanager_harness import LAYOUT, OWN, OWN_EPOCH, Talk, hello

from engine import protocol as p
from engine.memory.effects import LosePeer, Zero
from engine.memory.rmanager import RManager
from engine.protocol.base import OLDEST


@pytest.fixture
def talk():
    """A pool of 8 blocks; instance 1 on channel 1, instance 2 on channel 2."""
    made = Talk()
    made.ask(1, hello(1))
    made.ask(2, hello(2))
    return made


# --- hello ------------------------------------------------------------------------------------


def test_welcome_names_pool_epoch_and_kernel():
    assert Talk().step() == p.Welcome(OWN, OWN_EPOCH, "numpy", 8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"protocol": 99},
            f"version 99 of the protocol, and this lendkv versions {OLDEST} to {p.VERSION}",
        ),
        ({"cluster": "other"}, "'other', this pool of 'test'"),
        ({"layout": "ffff"}, "ffff, this pool's"),
        ({"instance": OWN, "epoch": OWN_EPOCH + 1}, "epoch 8 of instance 0, now it is 7"),
        ({"instance": OWN, "epoch": OWN_EPOCH - 1}, "epoch 6 of instance 0, now it is 7"),
        ({"instance": 2, "epoch": 0}, "epoch 0 of instance 2, now it is 1"),
    ],
)
def test_hello_is_rejected_with_both_values(talk, changes, reason):
    rejected, lost = talk.say(5, hello(**({"instance": 5} | changes)))
    assert isinstance(rejected.message, p.Rejected)
    assert reason in rejected.message.reason
    assert lost == LosePeer(5, rejected.message.reason)


def test_one_step_at_a_time(talk):
    talk.step(3)
    assert "already" in talk.lost(4, hello(OWN, OWN_EPOCH))
    talk.rmanager.peer_lost(3, talk.now)
    talk.step(5)


@pytest.mark.parametrize("message", [p.Draw(1), p.Reserve(1, 1, 1.0), p.Detach(1), p.Renew([])])
def test_nothing_before_hello(talk, message):
    assert "not Hello" in talk.lost(9, message)


def test_a_second_hello_loses_the_peer(talk):
    assert "second Hello" in talk.lost(1, hello(1))


def test_a_lost_peer_is_ignored_until_its_channel_is_closed(talk):
    talk.lost(1, hello(1))
    assert talk.say(1, p.Reserve(1, 1, 1.0)) == []
    talk.rmanager.peer_lost(1, talk.now)
    talk.ask(1, hello(1))


def test_a_newer_epoch_ends_older_loans_at_once(talk):
    talk.loan(1)
    kept = talk.loan(2)
    outputs = talk.say(3, hello(1, epoch=2))
    assert [out.peer for out in outputs if isinstance(out, LosePeer)] == [1]
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_lent == len(kept.blocks)


# --- the own step -----------------------------------------------------------------------------


@pytest.mark.parametrize("message", [p.Draw(1), p.Give([])])
def test_only_the_own_step_draws_and_gives(talk, message):
    assert "own step" in talk.lost(1, message)


def test_the_own_step_cannot_borrow_from_its_own_pool(talk):
    talk.step()
    assert "does not reserve" in talk.lost(0, p.Reserve(1, 1, 1.0))


def test_draw_gives_as_many_as_there_are(talk):
    talk.step()
    drawn = talk.ask(0, p.Draw(6, staging=True))
    assert (len(drawn.blocks), drawn.num_free, drawn.staging) == (6, 2, True)
    assert len(talk.ask(0, p.Draw(6)).blocks) == 2
    assert talk.ask(1, p.Reserve(1, 1, 1.0)) == p.Refused(1, 0)
    assert talk.say(0, p.Give(drawn.blocks)) == []
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_free == 6


@pytest.mark.parametrize("extra", [99, 0, 1])
def test_give_of_blocks_the_step_does_not_have_changes_nothing(extra):
    talk = Talk()
    talk.step()
    drawn = talk.ask(0, p.Draw(2))
    bad = drawn.blocks[0] if extra == 0 else 7 if extra == 1 else extra
    assert "does not have" in talk.lost(0, p.Give([*drawn.blocks, bad]))
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_free == 6


def test_a_dead_step_frees_what_it_drew_and_loans_live_on(talk):
    talk.step()
    talk.ask(0, p.Draw(3))
    talk.ask(0, p.Draw(1, staging=True))
    talk.loan(1)
    talk.rmanager.peer_lost(0, talk.now)
    counts = talk.rmanager.heartbeat(address="a", host="h", now=talk.now)
    assert (counts.num_free, counts.num_lent) == (6, 2)


# --- reserve, renew, release ------------------------------------------------------------------


def test_the_lender_keeps_blocks_and_caps_loans():
    talk = Talk(10, lend_fraction=0.5, keep_blocks=3)
    talk.step()
    talk.ask(1, hello(1))
    counts = talk.rmanager.heartbeat(address="", host="", now=talk.now)
    assert (counts.num_lendable, counts.num_lend_cap) == (5, 5)
    assert talk.ask(1, p.Reserve(1, 6, 1.0)) == p.Refused(1, 5)
    talk.ask(0, p.Draw(4))
    assert talk.ask(1, p.Reserve(1, 4, 1.0)) == p.Refused(1, 3)
    assert len(talk.loan(1, 3, written=False).blocks) == 3
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_lendable == 0


def test_reserve_again_gives_the_same_loan(talk):
    first = talk.ask(1, p.Reserve(5, 3, 10.0))
    assert talk.ask(1, p.Reserve(5, 3, 10.0)) == first
    assert talk.ask(2, p.Reserve(5, 3, 10.0)).loan != first.loan
    assert "was used" in talk.lost(1, p.Reserve(5, 2, 10.0))


def test_a_used_reservation_is_not_granted_again(talk):
    granted = talk.loan(1)
    talk.ask(1, p.Release(granted.loan, [0]))
    assert "was used" in talk.lost(1, p.Reserve(1, 2, 10.0))


def test_a_reservation_of_nothing_loses_the_peer(talk):
    assert "no blocks" in talk.lost(1, p.Reserve(1, 0, 1.0))


def test_long_leases_are_cut():
    talk = Talk(max_lease_s=5.0)
    talk.ask(1, hello(1))
    assert talk.ask(1, p.Reserve(1, 1, 3600.0)).lease_s == 5.0


def test_a_lease_lasts_its_length_and_the_drift_margin(talk):
    granted = talk.loan(1, lease_s=10.0)
    talk.now += 10.4
    assert talk.ask(1, p.Renew([granted.loan, 99])) == p.Renewed([granted.loan])
    talk.now += 10.4
    talk.rmanager.tick(talk.now)
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_lent == 2
    talk.now += 0.2
    talk.rmanager.tick(talk.now)
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_lent == 0


def test_renew_does_not_revive_an_expired_loan_even_before_a_tick(talk):
    granted = talk.loan(1, lease_s=10.0)
    talk.now += 10.5
    assert talk.ask(1, p.Renew([granted.loan])) == p.Renewed([])


def test_renew_of_somebody_elses_loan_keeps_nothing(talk):
    granted = talk.loan(1)
    assert talk.ask(2, p.Renew([granted.loan])) == p.Renewed([])


def test_release_in_parts_and_again(talk):
    loan = talk.loan(1, 3).loan
    assert talk.ask(1, p.Release(loan, [1])) == p.Released(loan, [1])
    assert talk.ask(1, p.Release(loan, [1, 2])) == p.Released(loan, [2])
    assert talk.ask(1, p.Release(loan)) == p.Released(loan, [0])
    assert talk.ask(1, p.Release(loan)) == p.Released(loan, [])
    assert talk.ask(1, p.Renew([loan])) == p.Renewed([])


def test_returned_blocks_are_zeroed_when_configured():
    talk = Talk(zero_on_return=True)
    talk.ask(1, hello(1))
    granted = talk.loan(1)
    zeroed = [Zero(block) for block in reversed(granted.blocks)]
    assert talk.say(1, p.Release(granted.loan))[:-1] == zeroed
    granted = talk.loan(1, 1, 2, written=False)
    talk.ask(1, p.Write(granted.loan, 0, 0, True, b"content"), LAYOUT.block_bytes)
    kept = talk.say(1, p.Release(granted.loan, keep=True))
    assert kept[:-1] == [Zero(granted.blocks[0])], "then nothing is cached for others"
    granted = talk.loan(1, reservation=3, lease_s=1.0)
    ended = [Zero(block) for block in reversed(granted.blocks)]
    assert talk.rmanager.tick(talk.now + 2) == ended


def test_generations_grow_on_grant_and_on_return(talk):
    granted = talk.loan(1, 1)
    [block] = granted.blocks
    assert granted.generations == [1] == [talk.pool.generation(block)]
    talk.ask(1, p.Release(granted.loan))
    assert talk.pool.generation(block) == 2


@pytest.mark.parametrize(
    "wrong", [{"lend_fraction": 1.1}, {"keep_blocks": -1}, {"max_lease_s": 0.0}, {"drift": -0.1}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RManager.Config(**wrong)
