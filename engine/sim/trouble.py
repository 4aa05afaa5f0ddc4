"""Trouble: what befalls a cluster: crashes, freezes, wrong advice, clients that go away."""

from engine import protocol as p
from engine.memory.books import BlockState
from engine.sim.cluster import Cluster
from engine.sim.pool import SimPool
from engine.sim.step import SimStep
from engine.sim.world import Process

MAX_PROVOKED = 32
"""instances told to leave in the middle of something, in one history"""
MISADVICE = 6
"""pieces of wrong advice at a time"""
STRAIN_S = 0.2


class Trouble:
    """Faults on a cluster, and provocations of the states that messages should meet."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._num_provoked = 0
        self._world.provoke = self._provoke

    def strike(self, kind: str, instance: int, other: int, seconds: float) -> None:
        """One of ``config.KINDS``; nothing happens to what is dead already."""
        cluster, world = self._cluster, self._world
        step, pool = cluster.steps[instance], cluster.pools[instance]
        match kind:
            case "kill_step":
                cluster.kill_step(instance)
            case "kill_pool" if pool.is_alive:
                cluster.kill_pool(instance)
            case "kill_planner" if cluster.planner.is_alive:
                cluster.kill(cluster.planner)
            case "kill_gateway" if cluster.gateway.is_alive:
                cluster.kill(cluster.gateway)
            case "freeze_step":
                step.frozen_until = max(step.frozen_until, world.now + seconds)
            case "freeze_pool":
                pool.frozen_until = max(pool.frozen_until, world.now + seconds)
            case "slow":
                self._slow(instance, seconds)
            case "partition":
                self._hold(instance, other, world.now + seconds)
            case "evacuate" if step.is_alive:
                self._evacuate(instance)
            case "strain":
                self._strain(instance, seconds)
            case "misadvise":
                for _ in range(MISADVICE):
                    moment = world.now + world.chance.uniform(0, 0.5)
                    world.at(moment, lambda: self._misadvise(instance, other))
            case "cancel" if cluster.gateway.is_alive:
                cluster.gateway.cancel()

    def _provoke(self, process: Process, state: str) -> None:
        """What may bring a process into a state, so that a message finds it there."""
        if isinstance(process, SimPool) and state == "strained":
            self._strain(process.instance, STRAIN_S)
        if not isinstance(process, SimStep) or not process.is_alive:
            return
        chance = self._world.chance
        if state == "leaving" and self._num_provoked < MAX_PROVOKED:
            self._num_provoked += 1
            self._evacuate(process.instance, at_once=chance.random() < 0.5)
        elif state == "wounded":
            others = [link for to, link in process.links.items() if to != process.instance]
            if others:
                chance.choice(others).cut()

    def _slow(self, instance: int, seconds: float) -> None:
        both = (self._cluster.steps[instance], self._cluster.pools[instance])

        def become(slowness: float) -> None:
            for process in both:
                process.slowness = slowness

        become(8.0)
        self._world.at(self._world.now + seconds, lambda: become(1.0))

    def _hold(self, instance: int, other: int, until: float) -> None:
        """Nothing passes between two instances until then."""
        for link in self._cluster.links:
            if {link.step.instance, link.pool.instance} == {instance, other}:  # type: ignore[attr-defined]
                link.held_until = until

    def _strain(self, instance: int, seconds: float) -> None:
        """An instance's step finds itself slow."""
        step = self._cluster.steps[instance]
        if step.is_alive:
            step.send(instance, p.Strain(seconds))

    def _evacuate(self, instance: int, *, at_once: bool = False) -> None:
        """An operator's wish; the instance ends when it is empty, and another one joins later."""
        cluster, world, wish = self._cluster, self._world, p.Evacuate(instance, True)
        step, pool = cluster.steps[instance], cluster.pools[instance]
        life = step.life
        if at_once:
            step.on_planner(wish)
        else:
            cluster.to_planner(wish)

        def look() -> None:
            if step.life != life:
                return
            if step.is_alive and step.scheduler.evacuated:
                pool.call_home()
                if not pool.rmanager.books.count(BlockState.LENT):
                    world.notes["evacuated"] += 1
                    cluster.kill_pool(instance)
                    return
            world.at(world.now + 0.05, look)

        look()

    def _misadvise(self, instance: int, other: int) -> None:
        """A planner that is wrong: any advice may come at any time; some is made to hurt."""
        cluster, chance = self._cluster, self._world.chance
        debtors = [step for step in cluster.steps if step.is_alive and len(step.scheduler.debts)]
        roomy = [step for step in debtors if cluster.pools[step.instance].has_room]
        step = chance.choice(roomy or debtors or [cluster.steps[instance]])
        running, num_blocks = step.scheduler.running, chance.randint(1, 4)
        number = chance.choice(running).number if running else 0
        epoch = cluster.pools[other].epoch
        creditor = p.Creditor(other, epoch, str(other), "sim", num_blocks)
        settle = p.Settle(chance.choice([*step.links] or [other]), num_blocks, 1.0)
        advice = chance.choice([p.Move(number, num_blocks, creditor), settle])
        cluster.tell(step.instance, advice)
        recalling = [pool.instance for pool in cluster.pools if pool.state == "recalling"]
        cluster.tell(chance.choice(recalling or [instance]), p.Freeze(num_blocks, STRAIN_S))
