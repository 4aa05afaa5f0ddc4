"""Faults in the middle of a native step: who needed what is lost is poisoned, and nobody else."""

import time

import pytest
import torch
from native_step import Step, decodes
from processors import needs_decoder

from engine.attention import answer
from engine.comm import frame
from engine.protocol import Begin

pytestmark = needs_decoder


def test_a_holder_that_sleeps_poisons_who_needed_it_and_nobody_else(five_layers, truth):
    step = Step(five_layers, wait_s=2.0, wait_per_key_s=0.0)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    step.holders[1].rest()
    logits, poisoned = step.run(decodes(0))
    assert poisoned == {0}
    assert torch.equal(logits[1], truth[0][1])
    assert logits.isfinite().all()
    step.holders[1].resting.clear()
    logits, poisoned = step.run(decodes(0))  # late answers of the lost step are passed over
    assert not poisoned
    assert torch.equal(logits, truth[0])
    step.close()


def test_a_holder_that_leaves_poisons_who_needed_it_and_nobody_else(five_layers, truth):
    step = Step(five_layers, wait_s=10.0)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    assert torch.equal(step.run(decodes(0))[0], truth[0])
    step.holders[1].leave()
    logits, poisoned = step.run(decodes(1))
    assert poisoned == {0}
    assert torch.equal(logits[1], truth[1][1])
    assert step.lenders.get(1) is None
    step.close()


def test_a_loan_that_has_ended_is_never_answered(step, truth, monkeypatch):
    monkeypatch.setattr(answer, "WHILE_S", 1e-4)  # the books are looked at often
    step.lend()
    assert torch.equal(step.run(decodes(0))[0], truth[0])
    holder = step.holders[1]
    (loan,) = holder.rmanager._lending.loans
    looks = iter(range(100))
    native = holder.server._native_call

    def look(peer):
        if next(looks) == 4:  # in the middle of a step
            lending = holder.rmanager._lending
            holder.server._perform(lending.release(loan, loan.standing_slots)[1])
        return native(peer)

    holder.server._native_call = look
    assert step.run(decodes(1))[1] == {0}
    assert next(looks) > 4
    assert loan.number in step.lenders.inbox.pop()[1].loans


def tampered(channel, tamper):
    """A ``send`` that puts on the socket what ``tamper`` makes of each frame."""

    def send(head, *body):
        start, parts, body_bytes = frame.pack(
            head,
            body,
            sequence=channel._stream.num_sent,
            max_body_bytes=channel.max_body_bytes,
            seal=channel._session.sends,
        )
        channel._stream.num_sent += 1
        tamper(channel._socket, bytearray(start + b"".join(parts) + bytes(-body_bytes % 64)))

    return send


def in_pieces(sock, whole):
    for at in range(0, len(whole), 700):
        sock.sendall(whole[at : at + 700])
        time.sleep(1e-4)


def with_a_wrong_tag(sock, whole):
    whole[frame.HEADER.size] ^= 1
    sock.sendall(whole)


@pytest.fixture
def over_tcp(five_layers):
    """One side's library talks to the other side's Python, whose sends are tampered with."""
    step = Step(five_layers, transport="tcp", wait_s=10.0)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    yield step
    step.close()


def only_python(step, who):
    """The channel by which it sends from Python: the step to holder 1, or holder 1 to the step."""
    if who == "step":
        step.backend.native_step = lambda q_THD: None
        return step.lenders.get(1).channel
    server = step.holders[1].server
    server._native_call = lambda peer: 0
    (peer,) = server._peers.values()
    return peer.channel


@pytest.mark.parametrize("who", ["step", "holder"])
def test_messages_in_pieces_are_like_whole_ones(over_tcp, truth, who):
    channel = only_python(over_tcp, who)
    channel.send = tampered(channel, in_pieces)
    logits, poisoned = over_tcp.run(decodes(0))
    assert not poisoned
    assert torch.equal(logits, truth[0])


@pytest.mark.parametrize("who", ["step", "holder"])
def test_a_wrong_tag_in_the_middle_of_a_step_poisons_who_needed_it(over_tcp, truth, who):
    channel = only_python(over_tcp, who)
    assert torch.equal(over_tcp.run(decodes(0))[0], truth[0])
    channel.send = tampered(channel, with_a_wrong_tag)
    logits, poisoned = over_tcp.run(decodes(1))
    assert poisoned == {0}
    assert torch.equal(logits[1], truth[1][1])
    assert over_tcp.lenders.get(1) is None


def test_who_talks_nonsense_in_the_middle_of_a_step_is_cut_off(step):
    step.lend()
    step.run(decodes(0))
    step.lenders.send(1, Begin(99, 1.0, [[]]))
    channel = step.lenders.get(1).channel
    channel.send(b"nonsense")
    deadline = time.monotonic() + 20
    while step.lenders.get(1):
        assert time.monotonic() < deadline
        step.lenders.pump(0.1, [1])
