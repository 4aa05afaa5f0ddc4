"""Placements that spread a context on purpose, by name: "placements_for_tests:EveryOther".

Each leaf wants to lie somewhere; where there is no room it lies elsewhere. The last leaf, the tail,
is always the owner's, and no creditor is given more than it would lend.
"""

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.errors import CapacityError
from engine.protocol import Creditor
from engine.scheduler.base import Need, Placement


class Wanted(Placement):
    """Leaf by leaf, the last first: where ``wants`` says, else wherever there is room."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def wants(self, leaf: int, owner: int, creditors: Sequence[int]) -> int:
        """The instance that shall hold the leaf; any number may come back."""

    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        room = {c.instance: c.num_lendable for c in creditors if c.num_lendable}
        room.pop(need.owner, None)
        others = sorted(room)
        wanted = [self.wants(leaf, need.owner, others) for leaf in range(need.num_blocks - 1)]
        if set(wanted) <= {need.owner} and need.num_local >= need.num_blocks:
            return (need.owner,) * need.num_blocks
        if not need.num_local:
            raise CapacityError("no room at home for the tail")
        room[need.owner] = max(0, need.num_local - need.working_blocks - 1)
        holders = [need.owner]
        for leaf in reversed(range(need.num_blocks - 1)):
            turned = others[leaf % len(others) :] + others[: leaf % len(others)] if others else []
            fitting = [i for i in (wanted[leaf], *turned, need.owner) if room.get(i, 0) > 0]
            if not fitting:
                raise CapacityError(f"no place for leaf {leaf} of {need.num_blocks}: {room}")
            holders.append(fitting[0])
            room[fitting[0]] -= 1
        return tuple(reversed(holders))


class EveryOther(Wanted):
    """Even leaves are lent, in turn to all creditors; odd ones stay."""

    def wants(self, leaf: int, owner: int, creditors: Sequence[int]) -> int:
        if leaf % 2:
            return owner
        return creditors[leaf // 2 % len(creditors)] if creditors else -1


class AllSealedRemote(Wanted):
    """Whatever can be lent is lent, in contiguous runs of four leaves."""

    def wants(self, leaf: int, owner: int, creditors: Sequence[int]) -> int:
        return creditors[leaf // 4 % len(creditors)] if creditors else -1


class Drawn(Wanted):
    """From a list of instances (again and again), or at random from a seed."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        instances: list[int] = field(default_factory=list)
        seed: int = 0

    def wants(self, leaf: int, owner: int, creditors: Sequence[int]) -> int:
        listed = self.config.instances
        if listed:
            return listed[leaf % len(listed)]
        return random.Random(f"{self.config.seed} {leaf}").choice([owner, *(creditors or (-1,))])
