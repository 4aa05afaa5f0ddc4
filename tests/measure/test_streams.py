"""Streams of a measurement: who waits for tokens is told when none will come."""

import pytest

from engine.errors import LendKVError
from engine.measure.streams import Stream, Streams


def ended(num_tokens):
    stream = Stream("one", 0)
    stream.times, stream.report = [0.0] * num_tokens, object()
    return stream


def test_a_stream_that_ended_too_early_is_an_error_at_once():
    with pytest.raises(LendKVError, match="one ended with 3 of 4 tokens"):
        Streams({}).until(ended(3), tokens=4)


def test_who_takes_what_there_is_gets_it():
    Streams({}).until(ended(3), tokens=4, or_end=True)
    Streams({}).until(ended(4), tokens=4)
