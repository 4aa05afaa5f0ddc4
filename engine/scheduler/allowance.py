"""Allowance: how many blocks of others the requests of one API key may have. No I/O.

``Request.max_borrowed`` bounds what all of a tenant's sequences have on loan at this instance,
together with what their deals under way may bring. What they only read where others have it cached
costs nobody room and is not counted.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from engine.core import BlockLayout, Request
from engine.scheduler.base import Need
from engine.scheduler.debts import Debts
from engine.scheduler.negotiator import Negotiator
from engine.scheduler.sequence import Sequence


class Allowance:
    """Counted anew for each question: it is asked only by who is about to borrow."""

    def __init__(
        self,
        *,
        need: Need,
        layout: BlockLayout,
        debts: Debts,
        negotiator: Negotiator,
        sequences: Callable[[], Iterable[Sequence]],
    ) -> None:
        """``sequences``: all that this instance has."""
        self._need = need
        self._layout = layout
        self._debts = debts
        self._negotiator = negotiator
        self._sequences = sequences

    def cut(self, sequence: Sequence, num_blocks: int) -> int:
        """How many of so many blocks it may borrow now."""
        most = sequence.request.max_borrowed
        return num_blocks if most is None else max(0, min(num_blocks, most - self._used(sequence)))

    def refusal(self, sequence: Sequence, num_blocks: int) -> str:
        """Why it may not borrow so many blocks now; empty when it may."""
        if self.cut(sequence, num_blocks) == num_blocks:
            return ""
        request = sequence.request
        return (
            f"{request.tenant} has {self._used(sequence)} blocks on loan, of at most "
            f"{request.max_borrowed} at an instance, and {num_blocks} more are wanted"
        )

    def refusal_for_ever(self, request: Request, num_tokens: int) -> str:
        """Why a context of so many tokens can never be held here; empty when it can.

        It could, if its tenant had nothing else on loan and all of the own pool were its.
        """
        num_blocks, need = self._layout.blocks_for(num_tokens + 1), self._need
        kept = replace(need, num_local=need.num_pool).num_kept
        most = request.max_borrowed
        if most is None or num_blocks <= need.num_pool or num_blocks <= kept + most:
            return ""
        return (
            f"a context of {num_tokens} tokens needs {num_blocks} blocks of {self._layout.tokens}; "
            f"{kept} can stay in this instance's pool of {need.num_pool} while others are "
            f"borrowed, and {request.tenant} may borrow {most} at most"
        )

    def _used(self, sequence: Sequence) -> int:
        tenant = sequence.request.tenant
        return sum(
            self._on_loan(one) + self._negotiator.under_way(one.number)
            for one in self._sequences()
            if one.request.tenant == tenant
        )

    def _on_loan(self, sequence: Sequence) -> int:
        loans = sequence.loans.items()
        return sum(slots for key, slots in loans if not self._debts.is_pin(key))
