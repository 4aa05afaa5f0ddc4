"""Protects what is at rest: in the middle of churn too, a quiet cluster has lost nothing."""

import pytest

from engine.errors import ConfigError
from engine.memory.books import BlockState
from engine.sim import history
from engine.sim.cluster import Cluster
from engine.sim.config import SimConfig
from engine.sim.rest import REST_S, Rest, count_blocks
from engine.sim.simulate import load
from engine.sim.world import World

CHURN = "recipes/sim/churn.yaml"
SHORT = ["requests=90", "arrive_s=180", "faults=84", "fault_s=180", "period_s=60", "pause_s=36"]


def test_the_recipe_goes_on_for_an_hour_and_stops_for_breath():
    config = load(CHURN, [])
    assert (config.instances, config.arrive_s, config.fault_s) == (8, 3600, 3600)
    assert 0 < config.pause_s < config.period_s


def test_in_every_pause_all_books_come_to_rest():
    found = history.run(load(CHURN, SHORT), 1)
    assert found.is_clean
    assert found.notes["rests"] >= 3
    assert found.notes["left"] > 10


@pytest.fixture
def quiet():
    cluster = Cluster(World(SimConfig(instances=3, fate_share=0, ambush_share=0), 1))
    cluster.world.run(lambda: cluster.world.now >= 1.0, 1.0)
    return cluster


def test_a_block_that_somebody_still_holds_is_found(quiet):
    rest = Rest(quiet)
    rest.look()
    quiet.pools[1].rmanager.books.take(2, BlockState.USED)
    assert count_blocks(quiet) == (2, 0)
    quiet.world.now += REST_S
    rest.look()
    rest.look()
    assert len(quiet.world.violations) == quiet.world.notes["rests"] == 1


def test_a_pause_must_fit_its_period():
    with pytest.raises(ConfigError, match="pause_s"):
        load(CHURN, ["pause_s=300"])
