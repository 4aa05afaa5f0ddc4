"""Growth: how a sequence that has memory gets more of it. No I/O.

It draws from the own pool, and calls back what that has lent; then it lends its oldest leaves to
others, as many as they take, and works on in the blocks that these leave behind; then it takes host
memory.
"""

from dataclasses import replace

from engine.core import BlockLayout
from engine.protocol import Creditor, Drawn
from engine.scheduler.allowance import Allowance
from engine.scheduler.base import Need
from engine.scheduler.holdings import Holdings
from engine.scheduler.negotiator import Negotiator, NotPlaced, Placed
from engine.scheduler.sequence import Sequence, State

REDRAW_S = 0.02
"""between two looks for recalled blocks that came back"""


class Growth:
    """Sequences that want more than they have."""

    def __init__(
        self,
        *,
        need: Need,
        layout: BlockLayout,
        holdings: Holdings,
        negotiator: Negotiator,
        allowance: Allowance,
        grow_blocks: int,
    ) -> None:
        self._need = need
        self._layout = layout
        self._holdings = holdings
        self._negotiator = negotiator
        self.allowance = allowance
        self._grow_blocks = grow_blocks
        self.borrowing: dict[int, Sequence] = {}
        """those whose deal is under way, by number"""
        self._not_before = 0.0
        """recalled blocks are coming: do not draw again before this time"""

    def grow(self, sequence: Sequence, now: float) -> None:
        """A running sequence lacks a block for its next leaf: draw; if there is none, borrow."""
        if self._holdings.drawing or now < self._not_before:
            return
        if sequence.number not in self.borrowing:
            recall = self.fits_home(sequence)
            self._holdings.draw(self._grow_blocks, whom=sequence, recall=recall)

    def fits_home(self, sequence: Sequence) -> bool:
        """The lender comes first: such a sequence may call back whatever the pool has lent.

        One that must borrow itself does not: two of these, each holding what the other wants back,
        would take it from each other for ever.
        """
        return self._layout.blocks_for(len(sequence.token_ids) + 1) <= self._need.num_pool

    def lend_out(
        self, sequence: Sequence, num_blocks: int, now: float, to: Creditor | None = None
    ) -> None:
        """Move some of a sequence's oldest own leaves away, to ``to`` if it is named."""
        num_blocks = min(num_blocks, len(self._holdings.own_sealed(sequence)))
        num_blocks = self.allowance.cut(sequence, num_blocks)
        if num_blocks and sequence.number not in self.borrowing:
            self._borrow(sequence, num_blocks, now, to)

    def lend_for(self, num_blocks: int, running: list[Sequence], now: float) -> None:
        """Others may have room that one who waits cannot work in: blocks of a running one go there.

        It is so many blocks short.
        """
        able = [one for one in running if not one.is_prefill and not one.targets]
        longest = max(able, key=lambda one: len(self._holdings.own_sealed(one)), default=None)
        if longest is not None and num_blocks > 0:
            self.lend_out(longest, num_blocks, now)

    def on_drawn(self, sequence: Sequence, drawn: Drawn, now: float) -> Sequence | None:
        """Blocks came for it; returns it if there are none, nor will be soon."""
        on_host, sequence.on_host = sequence.on_host, False
        if drawn.num_recalled and not drawn.blocks:
            self._not_before = now + REDRAW_S
        if sequence.state is not State.RUNNING or drawn.blocks or drawn.num_recalled:
            return None
        if on_host:
            return sequence
        self._borrow(sequence, self._grow_blocks, now)
        return None

    def on_placed(self, placed: Placed) -> None:
        """The oldest own sealed leaves move to the new slots and leave their blocks behind."""
        sequence = self.borrowing.pop(placed.sequence)
        slots = [instance for instance in placed.holders if instance != self._need.owner]
        leaves = dict(zip(self._holdings.own_sealed(sequence), slots, strict=False))
        self._holdings.adopt(sequence, placed.grants, leaves)
        self._holdings.move_sealed(sequence)

    def on_not_placed(self, failed: NotPlaced) -> None:
        """Nobody lends: what is left is host memory."""
        sequence = self.borrowing.pop(failed.sequence)
        if not self._holdings.drawing:  # else it asks again
            sequence.on_host = True
            self._holdings.draw(self._grow_blocks, whom=sequence, host=True)

    def withdraw(self, sequence: Sequence) -> None:
        """It no longer wants more."""
        self.borrowing.pop(sequence.number, None)

    def _borrow(
        self, sequence: Sequence, num_blocks: int, now: float, to: Creditor | None = None
    ) -> None:
        self.borrowing[sequence.number] = sequence
        if reason := self.allowance.refusal(sequence, min(num_blocks, 1)):
            self._negotiator.outcomes.append(NotPlaced(sequence.number, reason, False))
            return
        num_blocks = self.allowance.cut(sequence, num_blocks)
        # All but the tail is to be lent.
        need = replace(self._need, num_blocks=num_blocks + 1, num_local=1, working_blocks=0)
        arrived, priority = sequence.arrived, sequence.request.priority
        self._negotiator.borrow(
            sequence.number, need, now, arrived=arrived, priority=priority, to=to, part=True
        )
