"""Requests are sent at the rate and with the burstiness that were asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.load.arrivals import ramp, steady

rates = st.floats(0.01, 1000)
shapes = st.floats(0.05, 50)
seeds = st.integers(0, 2**32)


def generator(seed):
    return np.random.default_rng(seed)


@given(number=st.integers(1, 200), rate=rates, burstiness=shapes, seed=seeds)
def test_every_seed_meets_the_rate_and_repeats(number, rate, burstiness, seed):
    times = steady(number, rate, burstiness, generator(seed))
    assert len(times) == number
    assert times[-1] == pytest.approx(number / rate)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert (times == steady(number, rate, burstiness, generator(seed))).all()


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_gammas_moments(burstiness):
    """Mean 1 / rate, coefficient of variation 1 / sqrt(burstiness)."""
    gaps = np.diff(steady(40_000, 5.0, burstiness, generator(7)))
    assert gaps.mean() == pytest.approx(1 / 5.0, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    skewness = ((gaps - gaps.mean()) ** 3).mean() / gaps.std() ** 3
    assert skewness == pytest.approx(2 * burstiness**-0.5, rel=0.2)


def test_an_infinite_rate_sends_all_at_once():
    assert (steady(5, np.inf, 1.0, generator(0)) == 0).all()


@given(
    number=st.integers(1, 300),
    first=st.floats(0.1, 10),
    growth=st.floats(1, 50),
    how=st.sampled_from(["linear", "exponential"]),
    seed=seeds,
)
def test_a_ramp_goes_from_the_first_rate_towards_the_last(number, first, growth, how, seed):
    """With gaps that are all but even, each gap is one over the rate of its request."""
    times = ramp(number, first, first * growth, how, 1e9, generator(seed))
    gaps = np.diff(np.concatenate([[0.0], times]))
    part = np.arange(number) / number
    expected = first + (first * growth - first) * part if how == "linear" else first * growth**part
    assert gaps == pytest.approx(1 / expected, rel=1e-3)


def test_a_linear_ramp_may_start_at_nothing():
    times = ramp(100, 0.0, 10.0, "linear", 1.0, generator(3))
    assert np.isfinite(times).all()
