"""The event log of a step: what its Scheduler hears."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from engine.core import BlockLayout, Plan, Request, Scores
from engine.events import Header
from engine.protocol import BorrowOffer, Message
from engine.scheduler import PLACEMENTS
from engine.scheduler.scheduler import Scheduler


class StepHeader(Header, frozen=True, kw_only=True, tag="step"):
    INPUTS: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "add": (Request,),
        "abort": (str,),
        "refuse": (int, str, str),
        "on_message": (int, Message, float),
        "on_offer": (BorrowOffer, float),
        "on_advice": (Message, float),
        "on_moved": (int, int),
        "on_fetched": (int, int, float),
        "on_lost": (int, float),
        "tick": (float,),
        "schedule": (float,),
        "commit": (Plan, dict[int, int], Scores, frozenset[int], frozenset[int], float),
        "timed": (Plan, list[float], float, float),
        "load": (float,),
        "take_effects": (),
    }
    MADE: ClassVar[tuple[type, ...]] = (Plan,)

    scheduler: Scheduler.Config
    host: str
    layout: BlockLayout
    placement: str
    options: dict[str, Any]
    num_blocks: int
    max_positions: int
    eos_ids: frozenset[int]
    epoch: int = 0
    model: str = ""

    def make(self) -> Scheduler:
        kind = PLACEMENTS.load(self.placement)
        return Scheduler(
            self.scheduler,
            instance=self.instance,
            host=self.host,
            layout=self.layout,
            placement=kind(msgspec.convert(self.options, kind.Config)),
            num_blocks=self.num_blocks,
            max_positions=self.max_positions,
            eos_ids=self.eos_ids,
            epoch=self.epoch,
            model=self.model,
        )

    def matters(self, machine: Scheduler, name: str, arguments: Sequence[Any]) -> bool:
        return name != "take_effects" or machine.has_effects

    def state_of(self, machine: Scheduler) -> Any:
        sequences = [
            (one.number, one.state, one.token_ids, one.table, sorted(one.returning), one.holes)
            for one in machine.roster.all()
        ]
        store = machine.holdings.store
        return sequences, store.num_free, store.num_used, len(machine.debts)
