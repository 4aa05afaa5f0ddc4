"""Provocation: brings receivers into the states that messages of a kind have met least."""

from collections import Counter

from engine import protocol as p
from engine.sim.cluster import Cluster
from engine.sim.pool import SimPool
from engine.sim.step import SimStep
from engine.sim.trouble import STRAIN_S, Trouble
from engine.sim.world import SELDOM, Process

MAX_EMPTIED = 32
"""instances told to leave in the middle of something, in one history"""
MAX_SENT_HOME = 30
"""lent leaves that the planner wants at home while their holder is busy, in each state of a step"""
STRAIN_SHARE = 0.3
MAX_DONORS = 4
"""that come because there is none, in one history"""
PART_SHARE = 0.05
STRAY_TOKENS = 20
LOOK_S = 0.02
LENDING_S = 0.1
"""until somebody has followed advice to lend"""


class Provocation:
    """Whatever it does may happen by itself as well."""

    def __init__(self, cluster: Cluster, trouble: Trouble) -> None:
        self._cluster = cluster
        self._trouble = trouble
        self._world = cluster.world
        self._num_emptied = 0
        self._num_donors = 0
        self._num_sent_home: Counter[str] = Counter()
        self._world.provoke = self._provoke
        if self._world.config.ambush_share:
            self._world.at(LOOK_S, self._look)

    def _provoke(self, kind: str, process: Process, state: str) -> None:
        match process:
            case SimPool():
                self._provoke_pool(process, state)
            case SimStep() if process.is_alive:
                self._provoke_step(kind, process, state)

    def _provoke_pool(self, pool: SimPool, state: str) -> None:
        if state == "strained":
            self._trouble.strain(pool.instance, STRAIN_S)
        elif state == "recalling" and pool in self._trouble.leaving:
            self._advise_to_lend(pool)
            pool.after(LENDING_S, pool.leave)

    def _provoke_step(self, kind: str, step: SimStep, state: str) -> None:
        chance, is_rare = self._world.chance, (kind, step.states) in SELDOM
        if state == "leaving" and (is_rare or self._num_emptied < MAX_EMPTIED):
            self._num_emptied += not is_rare
            at_once = step if is_rare or chance.random() < 0.5 else None
            self._trouble.evacuate(step.pool, at_once=at_once)
        elif state == "idle" and is_rare and self._cluster.gateway.is_alive:
            self._cluster.gateway.cancel_at(step.instance)
        elif state == "prefill" and is_rare:
            self._cluster.stray(step, STRAY_TOKENS)
        elif state == "wounded":
            others = [link for to, link in step.links.items() if to != step.instance]
            if others:
                chance.choice(others).cut()

    def _advise_to_lend(self, pool: SimPool) -> None:
        """All who run something shall move a block there."""
        for step in self._cluster.steps.values():
            if step.is_alive and step.pool is not pool and step.scheduler.running:
                name = pool.instance
                to = p.Creditor(name, pool.epoch, str(name), "sim", pool.num_blocks)
                self._cluster.tell(step, p.Move(step.scheduler.running[0].number, 1, to))

    def _look(self) -> None:
        self._send_home()
        self._part_with_donors()
        self._world.at(self._world.now + LOOK_S, self._look)

    def _part_with_donors(self) -> None:
        """One is there; while it lends it is told to leave some time, and another one comes."""
        cluster, chance = self._cluster, self._world.chance
        donors = [one for one in cluster.pools.values() if one.is_donor and one.is_alive]
        if not donors and not cluster.num_guests_joining and self._num_donors < MAX_DONORS:
            self._num_donors += 1
            cluster.join(self._world.config.pool_blocks[0], is_donor=True, is_guest=True)
        for donor in donors:
            if chance.random() < PART_SHARE:
                if donor.num_lent:
                    self._trouble.evacuate(donor)
                else:
                    self._advise_to_lend(donor)

    def _send_home(self) -> None:
        """A holder is busy, so that its debtor's sequences pause; then the planner wants a leaf of
        them at home. Nobody waits for an answer behind its Data.
        """
        world, cluster = self._world, self._cluster
        for step in cluster.steps.values():
            if not (step.num_debts and step.pool.has_room):
                continue
            for one in step.scheduler.running:
                holders = sorted({ref.instance for ref in one.table if ref.loan})
                if not holders or self._num_sent_home[step.state] >= MAX_SENT_HOME:
                    continue
                if one.paused_until > step.clock() + LOOK_S:
                    self._num_sent_home[step.state] += 1
                    cluster.tell(step, p.Settle(world.chance.choice(holders), 1, 1.0))
                elif world.chance.random() < STRAIN_SHARE:
                    self._trouble.strain(world.chance.choice(holders), STRAIN_S)
