"""LedgerPlacement: the own pool first, then up to three creditors by locality and free memory.

(PAPER section 2.1: the gManager's candidates, lowest communication cost and most free memory
first.) The earliest leaves are lent, in contiguous runs: they are sealed first, so they can leave
while the rest is still being computed, and runs merge into few partials.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import CapacityError
from engine.protocol import Creditor
from engine.scheduler.base import Need, Placement

ALIGNMENTS = (16, 8, 4, 2, 1)
"""a run that ends on a node of the merge tree has a smaller cover: fewer partials travel"""


class LedgerPlacement(Placement):
    """Borrow only what does not fit at home."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        max_creditors: int = 3

    def __init__(self, config: Config) -> None:
        self._config = config

    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        if need.num_blocks <= need.num_local:
            return (need.owner,) * need.num_blocks
        kept = max(need.num_local - need.working_blocks, 0)
        best = sorted(
            (c for c in creditors if c.num_lendable and c.instance != need.owner),
            key=lambda c: (c.host != need.host, -c.num_lendable, c.instance),
        )[: self._config.max_creditors]
        holders = next(
            (
                found
                for align in ALIGNMENTS
                if (found := _runs(need.num_blocks - kept, best, align))
            ),
            [],
        )
        if kept < 1 or len(holders) + kept < need.num_blocks:
            raise CapacityError(
                f"{need.num_blocks} blocks wanted: {kept} can stay at home (of {need.num_local} "
                f"free, {need.working_blocks} work), {sum(c.num_lendable for c in best)} can be "
                f"borrowed from {len(best)} of {len(creditors)} instances"
            )
        return (*holders, *(need.owner,) * kept)


def _runs(num_blocks: int, creditors: Sequence[Creditor], align: int) -> list[int]:
    """Holders of the first ``num_blocks`` leaves, each run but the last a multiple of ``align``.

    Empty when so many do not fit.
    """
    holders: list[int] = []
    for creditor in creditors:
        wanted = num_blocks - len(holders)
        taken = min(creditor.num_lendable, wanted)
        if align <= taken < wanted:
            taken -= taken % align
        holders += [creditor.instance] * taken
    return holders if len(holders) == num_blocks else []
