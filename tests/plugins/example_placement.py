"""A placement that, once it must borrow, keeps only the newest blocks at home."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import CapacityError
from engine.protocol import Creditor
from engine.scheduler.base import Need, Placement


class KeepTail(Placement):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        keep: int = 4
        """newest blocks of a context that stay at home"""

        def __post_init__(self) -> None:
            if self.keep < 1:
                raise ValueError(f"keep is {self.keep}; the newest block always stays")

    def __init__(self, config: Config) -> None:
        self._keep = config.keep

    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        if need.num_blocks <= need.num_local:
            return (need.owner,) * need.num_blocks
        keep = max(1, min(self._keep, need.num_local - need.working_blocks))
        room = {c.instance: c.num_lendable for c in creditors if c.instance != need.owner}
        wanted = min(need.num_blocks - keep, sum(room.values()))
        lent: list[int] = []
        while len(lent) < wanted:  # a block to each in turn
            for instance in [i for i in sorted(room) if room[i]][: wanted - len(lent)]:
                lent.append(instance)
                room[instance] -= 1
        kept = need.num_blocks - len(lent)
        if kept + need.working_blocks > need.num_local:
            raise CapacityError(
                f"{need.num_blocks} blocks wanted: {len(lent)} can be lent, and {kept} that stay "
                f"and {need.working_blocks} on their way do not fit into {need.num_local} free ones"
            )
        return (*lent, *(need.owner,) * kept)
