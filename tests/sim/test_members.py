"""Members come and go at run time: nobody's number is given twice, and donors lend and leave."""

import pytest

from engine.protocol import Evacuate
from engine.sim import history
from engine.sim.cluster import Cluster
from engine.sim.config import SimConfig
from engine.sim.trouble import Trouble
from engine.sim.world import World

CALM = SimConfig(instances=4, fate_share=0, ambush_share=0)


@pytest.fixture
def cluster():
    return Cluster(World(CALM, 5))


def let_pass(cluster, seconds):
    until = cluster.world.now + seconds
    cluster.world.run(lambda: cluster.world.now >= until, until)


def test_who_joins_gets_the_next_number_and_the_planner_hears_of_it(cluster):
    cluster.join(10)
    let_pass(cluster, 12)
    assert sorted(cluster.pools) == sorted(cluster.steps) == [0, 1, 2, 3, 4]
    assert cluster.pools[4].num_blocks == 10
    known = cluster.gateway.table._members
    assert [(one.instance, one.num_blocks) for one in known][-1] == (4, 10)


def test_a_number_is_used_once_though_its_first_owner_left_and_the_planner_died(cluster):
    cluster.join(10, is_donor=True)
    let_pass(cluster, 12)
    cluster.ask(None, Evacuate(4))
    let_pass(cluster, 3)
    assert sorted(cluster.pools) == [0, 1, 2, 3]
    cluster.kill(cluster.planner)
    cluster.join(10)
    let_pass(cluster, 12)
    assert sorted(cluster.pools) == [0, 1, 2, 3, 5]
    assert cluster.world.violations == []


def test_the_cluster_never_shrinks_below_what_its_largest_request_needs(cluster):
    trouble = Trouble(cluster)
    blocks = [pool.num_blocks for pool in cluster.pools.values()]
    trouble.num_needed = int(0.8 * sum(blocks)) - 1
    for index in range(4):
        trouble.strike("evacuate", index, 0, 0.1)
    assert len(trouble.leaving) <= 1


def test_members_come_and_go_among_requests():
    config = SimConfig(requests=20, faults=40, kinds=["join", "evacuate", "kill_planner"])
    found = history.run(config, 2)
    assert found.is_clean
    assert min(found.notes["joined"], found.notes["left"]) > 10
    assert found.notes["donors"] > 0
