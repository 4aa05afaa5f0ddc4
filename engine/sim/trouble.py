"""Trouble: what befalls a cluster: crashes, freezes, wrong advice, members that come and go."""

from engine import protocol as p
from engine.sim.cluster import Cluster
from engine.sim.pool import SimPool
from engine.sim.step import SimStep

MAX_GUESTS = 3
"""members above the first number"""
MISADVICE = 6
"""pieces of wrong advice at a time"""
STRAIN_S = 0.2
DRAIN_S = 0.3
"""at most: an instance that was emptied waits so long for the word to end"""
ASK_S = 1.0
"""an operator asks again: the planner or the step may restart meanwhile"""
LEND_SHARE = 0.8
"""of the blocks of those that stay: what a request can count on"""


class Trouble:
    """Faults on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.num_needed = 0
        """blocks of the largest request: the cluster never shrinks below what it needs"""
        self._cluster = cluster
        self._world = cluster.world
        self.leaving: set[SimPool] = set()

    def strike(self, kind: str, index: int, other_index: int, seconds: float) -> None:
        """One of ``config.KINDS``; nothing happens to what is dead already."""
        cluster, world = self._cluster, self._world
        members = list(cluster.pools)
        instance, other = (members[at % len(members)] for at in (index, other_index))
        pool, step = cluster.pools[instance], cluster.steps.get(instance)
        match kind:
            case "kill_step":
                debtors = [at for at, one in cluster.steps.items() if one.num_debts]
                cluster.kill_step(world.chance.choice(debtors or [instance]))
            case "kill_pool" if pool.is_alive:
                cluster.kill_pool(instance)
            case "kill_planner" if cluster.planner.is_alive:
                cluster.kill(cluster.planner)
            case "kill_gateway" if cluster.gateway.is_alive:
                cluster.kill(cluster.gateway)
            case "freeze_step" if step is not None:
                step.frozen_until = max(step.frozen_until, world.now + seconds)
            case "freeze_pool":
                pool.frozen_until = max(pool.frozen_until, world.now + seconds)
            case "slow":
                self._slow(instance, seconds)
            case "partition":
                self._hold(instance, other, world.now + seconds)
            case "evacuate":
                self.evacuate(pool)
            case "join":
                self._join()
            case "strain":
                self.strain(instance, seconds)
            case "misadvise":
                for _ in range(MISADVICE):
                    moment = world.now + world.chance.uniform(0, 0.5)
                    world.at(moment, lambda: self._misadvise(other))
            case "cancel" if cluster.gateway.is_alive:
                cluster.gateway.cancel()

    def _slow(self, instance: int, seconds: float) -> None:
        pool, step = self._cluster.pools[instance], self._cluster.steps.get(instance)

        def become(slowness: float) -> None:
            pool.slowness = slowness
            if step is not None:
                step.slowness = slowness

        become(8.0)
        self._world.at(self._world.now + seconds, lambda: become(1.0))

    def _hold(self, instance: int, other: int, until: float) -> None:
        """Nothing passes between two instances until then."""
        for link in self._cluster.links:
            if {link.step.instance, link.pool.instance} == {instance, other}:  # type: ignore[attr-defined]
                link.held_until = until

    def strain(self, instance: int, seconds: float) -> None:
        """An instance's step finds itself slow."""
        step = self._cluster.steps.get(instance)
        if step is not None and step.is_alive:
            step.send(instance, p.Strain(seconds))

    def _join(self) -> None:
        """A guest: an instance or a donor; one that leaves again, when there are many."""
        cluster, chance = self._cluster, self._world.chance
        guests = [pool for pool in cluster.pools.values() if pool.is_guest]
        if len(guests) + cluster.num_guests_joining < MAX_GUESTS:
            low, *tops = self._world.config.pool_blocks
            is_donor = chance.random() < 0.5
            cluster.join(chance.randint(low, tops[0]), is_donor=is_donor, is_guest=True)
        elif guests:
            self.evacuate(chance.choice(guests))

    def evacuate(self, pool: SimPool, *, at_once: SimStep | None = None) -> None:
        """An operator's wish, until the member has left for good; a new one takes its place."""
        cluster, world = self._cluster, self._world
        stay = [one for one in cluster.pools.values() if one not in self.leaving | {pool}]
        num_blocks = LEND_SHARE * sum(one.num_blocks for one in stay)
        num_steps = sum(not one.is_donor for one in stay)
        if pool in self.leaving or num_blocks < self.num_needed or num_steps < 2:
            return
        self.leaving.add(pool)

        def ask() -> None:
            if cluster.pools.get(pool.instance) is pool:
                cluster.ask(None, p.Evacuate(pool.instance))
                world.at(world.now + ASK_S, ask)
                return
            self.leaving.discard(pool)
            if not pool.is_guest:
                cluster.join(pool.num_blocks)

        empty = p.Evacuate(pool.instance, False)
        if at_once is not None:
            at_once.on_planner(empty)
        else:
            cluster.ask(None, empty)
        world.at(world.now + world.chance.uniform(0, DRAIN_S), ask)

    def _misadvise(self, other: int) -> None:
        """A planner that is wrong: any advice may come at any time; some is made to hurt."""
        cluster, chance = self._cluster, self._world.chance
        steps = [step for step in cluster.steps.values() if step.is_alive]
        debtors = [step for step in steps if step.num_debts]
        roomy = [step for step in debtors if step.pool.has_room]
        if not steps or other not in cluster.pools:
            return
        step = chance.choice(roomy or debtors or steps)
        running, num_blocks = step.scheduler.running, chance.randint(1, 4)
        number = chance.choice(running).number if running else 0
        epoch = cluster.pools[other].epoch
        creditor = p.Creditor(other, epoch, str(other), "sim", num_blocks)
        settle = p.Settle(chance.choice([*step.links] or [other]), num_blocks, 1.0)
        advice = chance.choice([p.Move(number, num_blocks, creditor), settle])
        cluster.tell(step, advice)
        recalling = [one for one in cluster.pools.values() if one.state == "recalling"]
        freeze = p.Freeze(num_blocks, STRAIN_S)
        cluster.tell(chance.choice(recalling or [cluster.pools[other]]), freeze)
