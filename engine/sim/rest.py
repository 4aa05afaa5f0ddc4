"""Rest: when nobody wants anything, each block is free or cached, and nobody owes anything."""

from engine.memory.books import BlockState
from engine.sim.cluster import Cluster

REST_S = 8.0
"""without a request or a fault; by then leases have run out, and what was frozen moves"""


class Rest:
    """Looks at all books now and then; ``look`` finds out by itself when all is quiet."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: tuple[int, ...] = ()
        self._since = 0.0

    def look(self) -> None:
        """Once in each quiet time."""
        world, gateway = self._cluster.world, self._cluster.gateway
        befell = sum(world.faults.values())
        seen = (gateway.num_answered, befell, world.notes["joined"], world.notes["left"])
        if gateway.unfinished or seen != self._seen:
            self._seen, self._since = seen, world.now
        elif world.now >= self._since + REST_S:
            self._since = float("inf")
            world.notes["rests"] += 1
            lost, leaked = count_blocks(self._cluster)
            if lost or leaked:
                world.violation(f"all is quiet, and {lost} blocks are lost and {leaked} leaked")


def count_blocks(cluster: Cluster) -> tuple[int, int]:
    """Lost: neither free nor cached, and nobody's. Leaked: lent, or owed, though nobody asks."""
    lost = leaked = 0
    for instance, pool in cluster.pools.items():
        books, step = pool.rmanager.books, cluster.steps.get(instance)
        leaked += books.count(BlockState.LENT)
        kept = 0
        if step is not None and step.is_alive:
            store = step.scheduler.holdings.store
            kept = store.num_blocks
            leaked += len(step.scheduler.debts)
            lost += store.num_used
        lost += abs(books.num_blocks - books.num_available - kept)
    return lost, leaked
