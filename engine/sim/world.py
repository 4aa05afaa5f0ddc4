"""World: virtual time, one source of chance, and processes that die, freeze and slow down."""

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from engine.sim.config import SimConfig

Action = Callable[[], None]


class World:
    """Events in the order of their time, then of their number: nothing else decides."""

    def __init__(self, config: SimConfig, seed: int) -> None:
        self.config = config
        self.now = 0.0
        self.chance = random.Random(seed)
        self.lease_s = self.chance.choice(config.lease_s)
        self.recall_s = self.chance.choice(config.recall_s)
        self.messages = 0
        self.faults: Counter[str] = Counter()
        self.coverage: Counter[tuple[str, str, str]] = Counter()
        """(message, what happened to it, state of its receiver)"""
        self.notes: Counter[str] = Counter()
        self.violations: list[str] = []
        self.trace: list[str] | None = None
        self._events: list[tuple[float, int, Action]] = []
        self._number = 0
        self._digest = hashlib.blake2b(digest_size=8)

    def at(self, time: float, action: Action) -> None:
        self._number += 1
        heapq.heappush(self._events, (max(time, self.now), self._number, action))

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        while self._events and self.now < limit_s and not until():
            self.now, _, action = heapq.heappop(self._events)
            action()

    def delay(self) -> float:
        """A message's way: mostly short, sometimes long."""
        return self.chance.uniform(0.0002, 0.002) * (30 if self.chance.random() < 0.02 else 1)

    def told(self, what: str) -> None:
        """Enters the history's fingerprint, and its trace when one is wanted."""
        line = f"{self.now:.6f} {what}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    def violation(self, what: str) -> None:
        self.told(f"VIOLATION {what}")
        self.violations.append(f"{self.now:.3f} s: {what}")

    @property
    def fingerprint(self) -> str:
        return self._digest.hexdigest()


class Process:
    """Something with a clock of its own. What was meant for an earlier life never happens."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.is_alive = False
        self.frozen_until = 0.0
        self.slowness = 1.0
        drift = world.config.drift
        self._rate = 1 + world.chance.uniform(-drift, drift)
        self._offset = world.chance.uniform(0, 1000)

    def clock(self) -> float:
        """CLOCK_BOOTTIME as this process sees it."""
        return self._offset + self.world.now * self._rate

    def start(self) -> None:
        self.life += 1
        self.is_alive = True
        self.frozen_until = 0.0

    def stop(self) -> None:
        self.life += 1
        self.is_alive = False

    @property
    def is_frozen(self) -> bool:
        return self.world.now < self.frozen_until

    def after(self, seconds: float, action: Action) -> None:
        """In so many seconds, or when it thaws, unless it is dead by then."""
        life = self.life
        self.world.at(self.world.now + seconds * self.slowness, lambda: self._act(life, action))

    def _act(self, life: int, action: Action) -> None:
        if life != self.life or not self.is_alive:
            return
        if self.is_frozen:
            self.world.at(self.frozen_until, lambda: self._act(life, action))
            return
        action()
        if self.world.chance.random() < 0.002:  # the scheduler of the host has other plans
            pause = self.world.chance.uniform(0, 0.1)
            self.frozen_until = max(self.frozen_until, self.world.now + pause)

    def every(self, seconds: float, action: Action) -> None:
        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds * self.world.chance.random(), again)


def kind_of(message: Any) -> str:
    return type(message).__name__
