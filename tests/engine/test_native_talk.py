"""Asks and answers within the native library: the bits of one instance, whatever comes between."""

import torch
from native_step import Step, decodes
from processors import needs_decoder

from engine.protocol import Renew

pytestmark = needs_decoder


def test_the_bits_are_those_of_one_instance(step, truth):
    step.lend()
    for number in range(4):
        logits, poisoned = step.run(decodes(number))
        assert not poisoned
        assert torch.equal(logits, truth[number])
    # Nobody answers a prefill within the library: every layer's answers are Python's to get.
    logits, poisoned = step.run([(0, 134, 30), (1, 74, 1)])
    assert not poisoned
    assert torch.equal(logits, truth[4])


def test_going_on_with_the_same_tables_is_like_reading_them_anew(step, five_layers):
    anew = Step(five_layers, wait_s=10.0)
    anew.prefill()
    for number in range(6):
        if number == 3:  # other tables of the same length
            step.lend()
            anew.lend()
        anew.backend.forget_sequence(99)
        assert torch.equal(step.run(decodes(number))[0], anew.run(decodes(number))[0])
    anew.close()


def test_other_messages_may_come_between(step, truth):
    step.lend()
    for number in range(4):
        for holder in step.holders:
            for _ in range(3 * number):
                step.lenders.send(holder, Renew([1]))
        logits, poisoned = step.run(decodes(number))
        assert not poisoned
        assert torch.equal(logits, truth[number])


def test_layer_by_layer_it_is_the_same(step, truth, monkeypatch):
    step.lend()
    monkeypatch.setattr(step.backend, "native_step", lambda q_THD: None)
    assert torch.equal(step.run(decodes(0))[0], truth[0])
    monkeypatch.undo()
    assert torch.equal(step.run(decodes(1))[0], truth[1])


def test_most_layers_never_leave_the_library(step):
    """Where answers are slow all is right and nothing is fast; so look whether it is."""
    step.lend()
    for number in range(4):
        step.run(decodes(number))
    answered = step.holders[1].server._peers
    natives = [peer.asked._native for peer in answered.values() if peer.asked._native]
    assert natives
    assert all(native.is_done for native in natives)


def test_each_holders_trips_are_timed(step):
    """In the library, in Python, and where a step's layers are answered in both."""
    step.lend()
    travels = step.backend.travels
    for number in range(4):
        step.run(decodes(number))
        assert sum(travels.trips.counts) == 2 * (number + 1)
    step.run([(0, 134, 30), (1, 74, 1)])
    assert sum(travels.trips.counts) == 10
    took = {one: sum(travel.trip_s[one] for travel in travels.of.values()) for one in (1, 2)}
    assert all(0 < seconds < 60 for seconds in took.values())
    assert travels.trips.counts[0] < 10, "a trip takes more than 10 us"
