"""LocalOnly: nothing is lent, as in engines without lending; the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import CapacityError
from engine.protocol import Creditor
from engine.scheduler.base import Need, Placement


class LocalOnly(Placement):
    """All blocks at the owner, or none."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        pass

    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        if need.num_blocks > need.num_local:
            raise CapacityError(
                f"{need.num_blocks} blocks wanted, {need.num_local} free in the own pool, and "
                "placement local_only borrows none; use placement.name=ledger or a larger pool"
            )
        return (need.owner,) * need.num_blocks
