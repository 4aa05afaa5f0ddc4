"""Protects what the planner learns from timed steps: it is the least squares of all it was told.

The oracle solves for all samples at once, in float64, with the same prior and forgetting.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import StepSample
from engine.scheduler.performance import BELIEF, FORGETTING, OUTLIER, PRIOR, Performance

samples = st.builds(
    StepSample,
    num_rows=st.integers(1, 64),
    local_keys=st.integers(0, 200_000),
    remote_keys=st.sampled_from([0, 0, 5000, 100_000]),
    seconds=st.floats(0.001, 1.0),
)


def least_squares(told):
    """Of shares of the prior, which is not forgotten, as samples are; no time is below 0."""
    normal, wanted = np.zeros((4, 4)), np.zeros(4)
    for one in told:
        x = np.array([1.0, one.num_rows, one.local_keys, one.remote_keys]) * PRIOR
        normal = FORGETTING * normal + np.outer(x, x)
        wanted = FORGETTING * wanted + x * one.seconds
    shares = np.linalg.solve(normal + BELIEF * np.eye(4), wanted + BELIEF * np.ones(4))
    return np.maximum(shares, 0.0) * PRIOR


@given(st.lists(samples, min_size=1, max_size=20))
def test_it_is_the_least_squares_of_what_it_was_told(told):
    cost = Performance()
    cost.learn(told[:3])
    cost.learn(told[3:])
    expected = least_squares(told)
    for rows, local, remote in ((1, 0, 0), (16, 16_000, 0), (32, 50_000, 50_000)):
        counts = np.array([1, rows, local, remote])
        assert counts @ cost.coefficients == pytest.approx(counts @ expected, rel=1e-3, abs=1e-5)


def test_what_is_never_told_stays_as_it_was_believed():
    """200,000 steps of a cluster where nobody borrows, all with as many rows."""
    cost = Performance()
    for _ in range(200):
        cost.learn([StepSample(8, 8000 + 10 * (i % 100), 0, 0.03) for i in range(1000)])
    assert cost.seconds(8, 8500, 0, 0) == pytest.approx(0.03, rel=0.01)
    assert cost.coefficients[3] == PRIOR[3]
    cost.learn([StepSample(8, 8500, 0, 0.06)] * 1000)
    assert cost.seconds(8, 8500, 0, 0) == pytest.approx(0.06, rel=0.01)


def test_a_step_always_takes_some_time():
    """Though all that was learned is that keys take some."""
    cost = Performance()
    cost.coefficients = (0.0, 0.0, 1e-6, 0.0)
    assert cost.seconds(4, 0, 0, 0) > 0
    assert cost.seconds(0, 0, 0, 0) > 0


def test_a_step_that_met_something_else_teaches_nothing():
    cost = Performance()
    cost.learn([StepSample(4, 4000, 0, 0.02), StepSample(8, 8000, 0, 0.03)] * 20)
    known = cost.coefficients
    cost.learn([StepSample(4, 4000, 0, 2 * OUTLIER * cost.seconds(4, 4000, 0, 0))])
    assert cost.coefficients == known
