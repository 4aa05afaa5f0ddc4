"""World: virtual time, one source of chance, and processes that die, freeze and slow down."""

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from engine.sim.config import SimConfig
from engine.sim.coverage import DONOR, STEP

Action = Callable[[], None]
SELDOM = frozenset([("Data", STEP), ("Evacuate", DONOR)])
"""messages to receivers with these states: each one is made to wait"""


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
        self._met: Counter[tuple[str, str]] = Counter()
        self._ambushes: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.provoke: Callable[[str, Process, str], None] = lambda kind, receiver, state: None
        """does what may bring a receiver into a state before a message of this kind comes"""
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

    def fate(self, kind: str, state: str) -> str:
        """What befalls a message at a receiver in this state: the rarer the pair, the likelier.

        ``late``: the receiver pauses before it looks. ``lost``: the channel breaks under it.
        """
        seen = self._met[kind, state]
        self._met[kind, state] += 1
        draw, share = self.chance.random() * (1 + seen) ** 1.5, self.config.fate_share
        return "lost" if draw < share else "late" if draw < 2 * share else "none"

    def rarest(self, kind: str, states: tuple[str, ...]) -> str:
        """The state that such a message should meet next, or nothing: mostly nothing."""
        tried = 0 if (kind, states) in SELDOM else self._ambushes[kind, states]
        if not states or self.chance.random() * (1 + tried) ** 2 >= self.config.ambush_share:
            return ""
        self._ambushes[kind, states] += 1
        return min(states, key=lambda state: (self._met[kind, state], self.chance.random()))

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

    def __init__(self, world: World, name: str, states: tuple[str, ...] = ()) -> None:
        """``states``: those that messages are made to meet."""
        self.world = world
        self.name = name
        self.states = states
        self.life = 0
        self.is_alive = False
        self.frozen_until = 0.0
        self.slowness = 1.0
        self._held: deque[tuple[int, Action]] = deque()
        """what came while it was frozen, in order"""
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
        self._held.clear()

    @property
    def state(self) -> str:
        """What counts for the coverage."""
        return "up"

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
        if self._held or self.is_frozen:
            self._held.append((life, action))
            if len(self._held) == 1:
                self.world.at(self.frozen_until, self._thaw)
            return
        self._run(action)

    def _thaw(self) -> None:
        while self._held and not self.is_frozen:
            life, action = self._held.popleft()
            if life == self.life and self.is_alive:
                self._run(action)
        if self._held:
            self.world.at(self.frozen_until, self._thaw)

    def _run(self, action: Action) -> None:
        action()
        if self.world.chance.random() < 0.002:  # the scheduler of the host has other plans
            self.pause()

    def pause(self) -> None:
        """Do nothing for a moment."""
        until = self.world.now + self.world.chance.uniform(0, 0.1)
        self.frozen_until = max(self.frozen_until, until)

    def every(self, seconds: float, action: Action) -> None:
        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds * self.world.chance.random(), again)


def kind_of(message: Any) -> str:
    return type(message).__name__
