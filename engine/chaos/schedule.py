"""Which fault strikes whom, and when: drawn from a seed before anything starts. No I/O."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = {
    "kill": ("step", "holder", "gateway", "planner"),
    "freeze": ("holder", "holder", "step"),
    "slow": ("pool", "step"),
    "partition": ("instance",),
    "restart": ("step", "pool"),
    "join": ("instance",),
    "leave": ("instance",),
}
"""kind -> the roles that it strikes in turn; holder: the pool that lends most by then"""
SLOW_S = 3.0


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` strikes ``role`` of an instance at ``at_s`` for ``for_s`` (0: at once)."""

    at_s: float
    kind: str
    role: str
    instance: int
    for_s: float = 0.0

    def __str__(self) -> str:
        where = f"{self.role} {self.instance}" if self.instance >= 0 else self.role
        return f"{self.kind} {where}" + (f" for {self.for_s:.1f} s" if self.for_s else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds; they decide how long a freeze or a cut must be to mean something."""

    seconds: float
    every_s: float
    wait_s: float
    """longest wait for a holder"""
    lease_s: float


def draw_schedule(
    times: Times, *, seed: int, kinds: Sequence[str], num_victims: int
) -> list[Fault]:
    """Faults ``every_s`` apart; each (kind, role) comes once before any comes again.

    Victims are instances 0 to ``num_victims`` - 1 in a random order, each before any again. Planner
    and gateway live at instance 0. A leave follows a join, and is of the instance that joined.
    """
    rng = random.Random(seed)
    strikes = [(kind, role) for kind in kinds for role in KINDS[kind]]
    deck: list[tuple[str, str]] = []
    victims: list[int] = []
    faults: list[Fault] = []
    joined = False
    num_long = 0
    for number in range(int(times.seconds // times.every_s)):
        if not deck:
            deck = rng.sample(strikes, len(strikes))
        kind, role = deck.pop()
        if kind in ("join", "leave"):  # both are in the deck: change their order if need be
            kind, joined = ("leave", False) if joined else ("join", True)
            faults.append(Fault((number + 0.5) * times.every_s, kind, role, -1))
            continue
        if not victims:
            victims = rng.sample(range(num_victims), num_victims)
        instance = 0 if role in ("gateway", "planner") else victims.pop()
        for_s = 0.0
        if kind in ("freeze", "partition"):
            num_long += 1
            beyond_lease = num_long % 2 == 1
            for_s = 1.0 + (times.lease_s * 1.1 if beyond_lease else times.wait_s)
        elif kind == "slow":
            for_s = SLOW_S
        faults.append(Fault((number + 0.5) * times.every_s, kind, role, instance, for_s))
    return faults
