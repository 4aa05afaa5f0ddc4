"""Deal: what one sequence shall borrow, whom it asked, and what was granted so far. No I/O."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from engine.protocol import Creditor, Granted
from engine.scheduler.base import Need


@dataclass(slots=True)
class Deal:
    """Under way; see ``Negotiator.borrow``."""

    sequence: int
    need: Need
    started: float
    query: int
    arrived: float
    priority: int
    part: bool
    num_lend_cap: int = 0
    creditors: list[Creditor] = field(default_factory=list)
    holders: tuple[int, ...] = ()
    asked: dict[int, int] = field(default_factory=dict)
    """reservation -> instance, unanswered"""
    grants: dict[int, Granted] = field(default_factory=dict)
    asked_at: float = 0.0
    rounds: int = 0
    is_held: bool = False

    def know(self, lendable: Mapping[int, int]) -> None:
        """What some creditors said that they lend, or did not say."""
        self.creditors = [
            replace(one, num_lendable=lendable.get(one.instance, one.num_lendable))
            for one in self.creditors
        ]

    @property
    def wanted(self) -> dict[int, int]:
        """Blocks that each of the chosen creditors must grant."""
        wanted = Counter(self.holders)
        del wanted[self.need.owner]
        return wanted

    @property
    def missing(self) -> dict[int, int]:
        """Of these, what none of its grants is."""
        granted = {instance: len(grant.blocks) for instance, grant in self.grants.items()}
        return {of: number for of, number in self.wanted.items() if granted.get(of) != number}

    @property
    def what_there_is(self) -> Need:
        """Its need, or as much of it as its creditors can lend; all of it where none can."""
        need, room = self.need, sum(creditor.num_lendable for creditor in self.creditors)
        most = need.num_kept + room
        return dataclasses.replace(need, num_blocks=min(need.num_blocks, most)) if room else need
