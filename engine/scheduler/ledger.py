"""LedgerPlacement: the own pool first, then up to three creditors by locality and free memory.

(PAPER section 2.1: the gManager's candidates, lowest communication cost and most free memory
first.) When three do not suffice, as few more as do. Debts in a circle are settled (DGFM, PAPER
section 2.2). The earliest leaves are lent, in contiguous runs: they are sealed first, so they can
leave while the rest is still being computed, and runs merge into few partials.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import CapacityError
from engine.protocol import Creditor, Freeze, Settle
from engine.scheduler.base import Advice, ClusterView, Need, Placement, StepCost
from engine.scheduler.dgfm import settlements

PREFERRED = 3
SETTLE_ROUNDS = 20
"""rounds of planning that a settlement is given before it is looked at again"""
ALIGNMENTS = (16, 8, 4, 2, 1)
"""a run that ends on a node of the merge tree has a smaller cover: fewer partials travel"""


class LedgerPlacement(Placement):
    """Borrow only what does not fit at home."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        min_swap_blocks: int = 2
        """a circle of debts is settled from so many blocks on"""
        settle_s: float = 10.0
        """longest a settlement keeps blocks from others"""

    def __init__(self, config: Config) -> None:
        self._config = config

    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        if need.num_blocks <= need.num_local:
            return (need.owner,) * need.num_blocks
        ranked = sorted(
            (c for c in creditors if c.num_lendable and c.instance != need.owner),
            key=lambda c: (c.host != need.host, -c.num_lendable, c.instance),
        )
        kept = max(need.num_kept, min(need.num_keepable, need.num_blocks - room(ranked)))
        wanted = need.num_blocks - kept
        best = self.choose(need, ranked, wanted)
        found = (_runs(wanted, best, align) for align in ALIGNMENTS)
        holders = next((runs for runs in found if runs), [])
        if kept < 1 or len(holders) + kept < need.num_blocks:
            raise CapacityError(
                f"{need.num_blocks} blocks wanted: {kept} can stay at home (of {need.num_local} "
                f"free, {need.working_blocks} work), {room(best)} can be "
                f"borrowed from {len(best)} of {len(creditors)} instances"
            )
        return (*holders, *(need.owner,) * kept)

    def choose(self, need: Need, ranked: Sequence[Creditor], num_blocks: int) -> Sequence[Creditor]:
        """Those of the creditors, the best first, that shall lend so many blocks.

        Each is asked for no more than it has then, and for as much in this order. All of them
        where they have too little.
        """
        num_needed = PREFERRED
        while num_needed < len(ranked) and room(ranked[:num_needed]) < num_blocks:
            num_needed += 1
        return ranked[:num_needed]

    def advise(self, view: ClusterView, cost: StepCost) -> list[Advice]:
        debts = {
            (debtor, creditor): num_blocks
            for creditor, one in view.instances.items()
            for debtor, num_blocks in one.owed.items()
            if debtor in view.instances
            and view.round - view.advised.get((debtor, creditor), -SETTLE_ROUNDS) >= SETTLE_ROUNDS
        }
        advice = []
        within_s = self._config.settle_s
        for settlement in settlements(debts, self._config.min_swap_blocks, view.round):
            for debtor, creditor in settlement.edges:
                home = Settle(creditor, settlement.num_blocks, within_s)
                advice.append(Advice(creditor, Freeze(settlement.num_blocks, within_s)))
                advice.append(Advice(debtor, home))
        return advice


def room(creditors: Sequence[Creditor], share: int | None = None) -> int:
    """Blocks that they lend together, none of them more than its share."""
    lendable = (creditor.num_lendable for creditor in creditors)
    return sum(lendable if share is None else (min(share, number) for number in lendable))


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
