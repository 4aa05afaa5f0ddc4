"""What a device does for others makes its own steps longer, unless it was free to do it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sim.serving.cluster import Cluster
from engine.sim.serving.config import ServingConfig
from engine.sim.serving.strain import Strain
from engine.sim.serving.systems import configured, system_of

CONFIG = replace(ServingConfig(), instances=1, pool_blocks=64)


def strain():
    system = system_of("ledger")
    cluster = Cluster(configured(CONFIG, system), system)
    return Strain(cluster, 0), cluster.clock


def test_a_device_that_was_free_has_done_it():
    one, clock = strain()
    for at in range(1, 8):  # asked all the time, it has no step of its own
        clock.now = float(at)
        one.owe(0.5)
    clock.now = 8.0
    assert one.felt() == 0.0


def test_a_device_in_steps_feels_all_of_it():
    one, clock = strain()
    one.felt()
    clock.now = 1.0
    one.owe(0.25)
    one.owe(0.25)
    one.rest()
    assert one.felt() == pytest.approx(0.5)
    one.rest()
    assert one.felt() == 0.0, "once"


@given(
    turns=st.lists(
        st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.floats(0.0, 2.0)), max_size=8
    )
)
def test_what_is_asked_is_felt_or_done_between_steps(turns):
    """Of each turn's demand, what is not felt fits the device's free time, or is more than it can
    do in the time that it has."""
    one, clock = strain()
    for step_s, asked_s, free_s in turns:
        began = clock.now
        one.felt()
        clock.now += step_s
        one.owe(asked_s)
        one.rest()
        clock.now += free_s
        felt_s = one.felt()
        assert 0.0 <= felt_s <= clock.now - began + 1e-9
        assert felt_s == pytest.approx(min(max(0.0, asked_s - free_s), step_s + free_s), abs=1e-9)
        one.rest()
