"""Addresses, membership and pool sizes that cannot be are refused with what to do."""

import pytest

from engine.config import load, of_rank
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cluster.host=0.0.0.0"], "set cluster.advertise"),
        (["transport.name=tcp", "transport.options.host=0.0.0.0"], "set cluster.advertise"),
        (["cluster.host=0.0.0.0", "cluster.advertise=0.0.0.0"], "nowhere that one could dial"),
        (["cluster.donor=true"], "set cluster.join"),
        (["cluster.join=here"], "not of the form HOST:PORT"),
        (["pool.sizes=[8, 8]"], "each of the 1 instances"),
        (["instances=2", "scheduler.max_step_tokens=32", "pool.sizes=[64, 1]"], "at least 2"),
    ],
)
def test_what_cannot_be_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load(None, overrides)


def test_all_interfaces_may_be_listened_to_under_a_name():
    load(None, ["cluster.host=0.0.0.0", "cluster.advertise=node1"])


def test_each_rank_has_its_own_pool():
    config = load(None, ["instances=2", "scheduler.max_step_tokens=64", "pool.sizes=[64, 32]"])
    assert [of_rank(config, rank).pool.num_blocks for rank in range(2)] == [64, 32]
    assert of_rank(load(None), 0) == load(None)
