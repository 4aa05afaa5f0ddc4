"""Protects what is written, read and attached through an RManager's loans, one case at a time."""

import pytest
from rmanager_harness import BLOCK_BYTES, Talk, hello

from engine import protocol as p
from engine.memory.effects import CopyIn, CopyOut, Reply
from engine.memory.loans import LoanFenced


@pytest.fixture
def talk():
    """A pool of 8 blocks; instance 1 on channel 1, instance 2 on channel 2."""
    made = Talk()
    made.ask(1, hello(1))
    made.ask(2, hello(2))
    return made


def test_parts_are_copied_and_the_last_commits(talk):
    granted = talk.loan(1, 1, written=False)
    block, loan = granted.blocks[0], granted.loan
    assert talk.say(1, p.Write(loan, 0, 0, False), 24) == [CopyIn(block, 0)]
    assert talk.say(1, p.Write(loan, 0, 24, True), BLOCK_BYTES - 24) == [
        CopyIn(block, 24),
        Reply(1, p.Ack(loan, 0)),
    ]
    assert talk.say(1, p.Read(loan, 0, 8, 16)) == [CopyOut(1, p.Data(loan, 0, 8), block, 8, 16)]


def test_a_write_may_start_again_before_its_commit(talk):
    granted = talk.loan(1, 1, written=False)
    talk.say(1, p.Write(granted.loan, 0, 0, False), 24)
    assert talk.ask(1, p.Write(granted.loan, 0, 0, True), BLOCK_BYTES)


@pytest.mark.parametrize(
    ("message", "num_bytes", "reason"),
    [
        (p.Write(1, 0, 0, True), BLOCK_BYTES, "committed slot"),
        (p.Write(1, 2, 0, True), BLOCK_BYTES, "which has 2"),
        (p.Write(2, 0, 0, True), 8, "last=True"),
        (p.Write(2, 0, 0, False), BLOCK_BYTES, "last=False"),
        (p.Write(2, 0, 0, False), BLOCK_BYTES + 1, "of 64 bytes"),
        (p.Write(2, 0, 8, False), 8, "filled to 0"),
        (p.Write(3, 0, 0, True), BLOCK_BYTES, "of instance 2"),
        (p.Read(1, 2, 0, 1), 0, "which has 2"),
        (p.Read(1, 0, 0, BLOCK_BYTES + 1), 0, "of 64 bytes"),
        (p.Read(2, 0, 0, 1), 0, "which is open"),
        (p.Read(3, 0, 0, 1), 0, "of instance 2"),
        (p.Release(1, [0, 2]), 0, "which has 2"),
        (p.Release(3), 0, "of instance 2"),
        (p.Attach(1, 1, [(0, 1, 2)]), 0, "which has 2"),
        (p.Attach(1, 1, [(0, 2, 0)]), 0, "which is open"),
        (p.Attach(1, 1, [(0, 3, 0)]), 0, "of instance 2"),
        (p.Attach(1, 1, [(1, 1, 0), (1, 1, 1)]), 0, "leaf 1 after leaf 1"),
        (p.Attach(1, 1, [(1, 1, 0), (0, 1, 1)]), 0, "leaf 0 after leaf 1"),
        (p.Begin(1, 1.0, []), 0, "Begin is no message"),
    ],
)
def test_what_no_honest_debtor_says_loses_it(talk, message, num_bytes, reason):
    talk.loan(1, 2)
    talk.loan(1, 1, reservation=2, written=False)
    talk.loan(2, 1)
    before = list(talk.pool.generations)
    assert reason in talk.lost(1, message, num_bytes)
    assert talk.pool.generations == before


def test_what_a_debtor_could_not_know_is_answered(talk):
    loan = talk.loan(1, lease_s=1.0).loan
    talk.now += 2
    fenced = p.FencedOff(0, [loan], f"loan {loan} has ended")
    assert talk.ask(1, p.Write(loan, 0, 0, True), BLOCK_BYTES) == fenced
    assert talk.say(1, p.Write(loan, 0, 0, False), 8) == []
    assert talk.ask(1, p.Read(loan, 0, 0, 8)) == fenced
    assert talk.ask(1, p.Release(loan)) == p.Released(loan, [])
    assert talk.say(1, p.Attach(1, 1, [(0, loan, 0)])) == []
    with pytest.raises(LoanFenced, match="have ended") as caught:
        talk.rmanager.resolve(1, 1, 1, talk.now)
    assert caught.value.loans == (loan,)


def test_a_table_resolves_to_its_blocks(talk):
    granted = talk.loan(1, 3)
    talk.say(1, p.Attach(4, 2, [(0, granted.loan, 2), (5, granted.loan, 0)]))
    expected = [(0, granted.blocks[2]), (5, granted.blocks[0])]
    assert talk.rmanager.resolve(1, 4, 2, talk.now) == expected
    talk.ask(1, p.Release(granted.loan, [1]))
    assert talk.rmanager.resolve(1, 4, 2, talk.now) == expected
    talk.ask(1, p.Release(granted.loan, [2]))
    with pytest.raises(LoanFenced, match="slot 2 of loan 1, leaf 0, was released"):
        talk.rmanager.resolve(1, 4, 2, talk.now)


@pytest.mark.parametrize(
    ("peer", "sequence", "version", "reason"),
    [(1, 5, 2, "no table"), (2, 4, 2, "no table"), (1, 4, 1, "version 1"), (1, 4, 3, "version 3")],
)
def test_another_table_is_fenced(talk, peer, sequence, version, reason):
    loan = talk.loan(1).loan
    talk.say(1, p.Attach(4, 2, [(0, loan, 0)]))
    with pytest.raises(LoanFenced, match=reason) as caught:
        talk.rmanager.resolve(peer, sequence, version, talk.now)
    assert caught.value.loans == ()


def test_a_lease_that_is_over_fences_before_the_tick(talk):
    loan = talk.loan(1, lease_s=10.0).loan
    talk.say(1, p.Attach(4, 2, [(0, loan, 0)]))
    assert talk.rmanager.resolve(1, 4, 2, talk.now + 10.4)
    with pytest.raises(LoanFenced, match="have ended"):
        talk.rmanager.resolve(1, 4, 2, talk.now + 10.5)


@pytest.mark.parametrize("end", ["detach", "lost"])
def test_tables_end_with_detach_and_with_the_channel(talk, end):
    loan = talk.loan(1).loan
    talk.say(1, p.Attach(4, 2, [(0, loan, 0)]))
    if end == "detach":
        talk.say(1, p.Detach(4))
    else:
        talk.rmanager.peer_lost(1, talk.now)
        talk.ask(1, hello(1))
    with pytest.raises(LoanFenced, match="no table"):
        talk.rmanager.resolve(1, 4, 2, talk.now)
    assert talk.ask(1, p.Renew([loan])) == p.Renewed([loan])
