"""The event log of a planner: what its GManager and Membership hear."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from engine.events import Header
from engine.protocol import Message
from engine.scheduler import PLACEMENTS
from engine.scheduler.gmanager import GManager
from engine.scheduler.performance import Performance
from engine.scheduler.planner import Planner


class PlannerHeader(Header, frozen=True, kw_only=True, tag="planner"):
    INPUTS: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "handle": (bytes, Message, float),
        "tick": (float,),
    }

    planner: GManager.Config
    placement: str
    options: dict[str, Any]
    block_tokens: int
    cluster: str
    layout: str
    num_first: int
    now: float

    @property
    def name(self) -> str:
        return "planner"

    def make(self) -> Planner:
        kind = PLACEMENTS.load(self.placement)
        return Planner(
            self.planner,
            placement=kind(msgspec.convert(self.options, kind.Config)),
            cost=Performance(),
            block_tokens=self.block_tokens,
            cluster=self.cluster,
            layout=self.layout,
            num_first=self.num_first,
            now=self.now,
        )

    def state_of(self, machine: Planner) -> Any:
        return machine.state
