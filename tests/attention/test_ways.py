"""Protects the choice between a question and a look: by what it costs, learned, never for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.native_calls import NativeStep
from engine.attention.ways import Ways

COUNTS = st.integers(0, 1 << 20)


@given(own=COUNTS, lent=COUNTS, key_s=st.floats(1e-9, 1e-6), trip_s=st.floats(1e-6, 1e-2))
def test_a_query_is_preferred_exactly_where_it_shows_less_than_the_work_would(
    own, lent, key_s, trip_s
):
    shown_s = max(0.0, trip_s + lent * key_s - own * key_s)
    assert Ways(key_s, trip_s).prefers_query(own, lent) == (shown_s < lent * key_s)


def test_a_long_own_part_hides_the_trip_and_a_short_one_does_not():
    ways = Ways(key_s=40e-9, trip_s=250e-6)
    assert not ways.prefers_query(500, 500)
    assert ways.prefers_query(20_000, 20_000)
    assert not ways.prefers_query(20_000, 0)


def test_costs_are_learned_from_layers():
    ways = Ways(key_s=40e-9, trip_s=250e-6)
    for _ in range(100):
        ways.learn_work(10_000 * 5e-9, 10_000)
        ways.learn_trip(30e-6 + 1000 * 5e-9, 1000)
        ways.learn_work(0.5, 0)  # nothing was attended to
    assert ways.key_s == pytest.approx(5e-9, rel=0.01)
    assert ways.trip_s == pytest.approx(30e-6, rel=0.02)


def test_after_one_bad_trip_queries_are_tried_again():
    ways = Ways(key_s=40e-9, trip_s=250e-6)
    ways.learn_trip(1.0, 0)
    tries = next(n for n in range(10_000) if ways.prefers_query(20_000, 20_000))
    assert 100 < tries < 10_000


def test_patience_goes_where_it_is_in_vain_and_comes_back():
    ways, layers = Ways(), 10
    usual = ways.patience_s
    for _ in range(10):
        ways.learn_step(NativeStep(num_late=6), layers, 1, 1)
    assert ways.patience < 0.01
    for _ in range(100):
        ways.learn_step(NativeStep(num_late=4), layers, 1, 1)
    assert ways.patience == 1.0
    assert ways.patience_s <= usual
