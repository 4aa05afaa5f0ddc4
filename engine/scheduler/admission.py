"""Admission: the queue, and how a sequence gets memory before it runs and while it grows. No I/O.

One sequence is placed at a time, in order of arrival: draw what the own pool has, let the
placement decide, borrow the rest all or nothing; who finds nothing gives everything back and
pauses, longer each time.
"""

from engine.core import BlockLayout
from engine.errors import CapacityError
from engine.protocol import Failed
from engine.scheduler.base import Need, Placement
from engine.scheduler.effects import Effect, ToClient
from engine.scheduler.holdings import Holdings
from engine.scheduler.negotiator import Negotiator, NotPlaced, Placed
from engine.scheduler.sequence import Sequence, State

SURE_TRIES = 3
"""a planner that was just restarted has not heard of all pools: ask so often before refusing"""


class Admission:
    """Sequences without memory, and running ones that want more."""

    def __init__(
        self,
        *,
        instance: int,
        host: str,
        layout: BlockLayout,
        placement: Placement,
        holdings: Holdings,
        negotiator: Negotiator,
        num_blocks: int,
        working_blocks: int,
        grow_blocks: int,
        retry_s: float,
        effects: list[Effect],
    ) -> None:
        self._instance = instance
        self._host = host
        self._layout = layout
        self._placement = placement
        self._holdings = holdings
        self._negotiator = negotiator
        self._num_blocks = num_blocks
        self._working_blocks = working_blocks
        self._grow_blocks = grow_blocks
        self._retry_s = retry_s
        self.waiting: list[Sequence] = []
        self.placing: Sequence | None = None
        self._draw_for: Sequence | None = None
        """who the draw under way is for: the one being placed, or a running one"""
        self._growing: dict[int, Sequence] = {}
        self._effects = effects

    def admit(self, now: float) -> None:
        """Start to place the first sequence of the queue, if none is being placed."""
        if self.placing or not self.waiting or self.waiting[0].not_before > now:
            return
        if self._holdings.drawing or self._growing:
            return  # running ones come first
        sequence = self.waiting.pop(0)
        self.placing, sequence.state = sequence, State.PLACING
        missing = self._blocks(sequence) - self._holdings.store.num_free
        if missing > 0:
            self._draw_for = sequence
            self._holdings.draw(missing)
        else:
            self._place(sequence, now)

    def on_drawn(self, num_drawn: int, now: float) -> None:
        sequence, self._draw_for = self._draw_for, None
        if sequence is None:
            return
        if sequence is self.placing:
            self._place(sequence, now)
        elif sequence.state is State.RUNNING and not num_drawn:
            self._borrow_more(sequence, now)

    def grow(self, sequence: Sequence) -> None:
        """A running sequence lacks a block for its next leaf: draw; if there is none, borrow."""
        if self._draw_for or self._holdings.drawing or sequence.number in self._growing:
            return
        self._draw_for = sequence
        self._holdings.draw(self._grow_blocks)

    def on_placed(self, placed: Placed) -> Sequence | None:
        """Memory was found; returns the sequence if it starts to run with it."""
        grown = self._growing.pop(placed.sequence, None)
        if grown is not None:
            self._adopt_more(grown, placed)
            return None
        sequence = self.placing
        assert sequence is not None
        assert sequence.number == placed.sequence
        leaves = {
            leaf: instance
            for leaf, instance in enumerate(placed.holders)
            if instance != self._instance
        }
        self._holdings.adopt(sequence, placed.grants, leaves)
        return self._start(sequence, len(placed.holders) - len(leaves), bool(leaves))

    def on_not_placed(self, failed: NotPlaced, now: float) -> Sequence | None:
        """Nothing was found; returns the running sequence that must make room, if one grew."""
        grown = self._growing.pop(failed.sequence, None)
        if grown is not None:
            return grown
        sequence = self.placing
        assert sequence is not None
        assert sequence.number == failed.sequence
        self.placing = None
        self._holdings.trim(sequence, 0)
        sequence.num_tries += 1
        if failed.hopeless and sequence.num_tries >= SURE_TRIES:
            wanted = self._blocks(sequence)
            reason = (
                f"a context of {len(sequence.token_ids)} tokens needs {wanted} blocks of "
                f"{self._layout.tokens}; this instance has {self._num_blocks}. {failed.reason}"
            )
            self._effects.append(
                ToClient(sequence.request.request_id, Failed(sequence.request.request_id, reason))
            )
            return None
        pause = min(self._retry_s * 2 ** min(sequence.num_tries, 10), 5.0)
        # Instances that refuse each other must not try again in step.
        sequence.not_before = now + pause * (1 + self._instance % 7 / 10)
        self.queue_again(sequence)
        return None

    def queue_again(self, sequence: Sequence) -> None:
        """Back into the queue, at its place by arrival."""
        sequence.state = State.WAITING
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda one: one.number)

    def withdraw(self, sequence: Sequence) -> None:
        """The sequence no longer wants memory: it ends or starts over."""
        self._negotiator.cancel(sequence.number)
        self._growing.pop(sequence.number, None)
        if self._draw_for is sequence:
            self._draw_for = None
        if self.placing is sequence:
            self.placing = None
        if sequence in self.waiting:
            self.waiting.remove(sequence)

    def _blocks(self, sequence: Sequence) -> int:
        """Blocks of all its tokens and one more, whose keys the first decode step writes."""
        return self._layout.blocks_for(len(sequence.token_ids) + 1)

    def _need(self, num_blocks: int, num_local: int, working_blocks: int) -> Need:
        return Need(
            owner=self._instance,
            host=self._host,
            num_blocks=num_blocks,
            num_local=num_local,
            num_pool=self._num_blocks,
            working_blocks=working_blocks,
        )

    def _place(self, sequence: Sequence, now: float) -> None:
        num_blocks = self._blocks(sequence)
        self._holdings.reserve(sequence, min(num_blocks, self._holdings.store.num_free))
        need = self._need(num_blocks, len(sequence.spare), self._working_blocks)
        try:
            holders = self._placement.place(need, ())
        except CapacityError:
            self._negotiator.borrow(sequence.number, need, now)
        else:
            self._negotiator.outcomes.append(Placed(sequence.number, holders, {}))

    def _start(self, sequence: Sequence, num_own: int, lends: bool) -> Sequence:
        self.placing = None
        self._holdings.trim(sequence, num_own + (self._working_blocks if lends else 0))
        sequence.state, sequence.num_tries = State.RUNNING, 0
        return sequence

    def _borrow_more(self, sequence: Sequence, now: float) -> None:
        self._growing[sequence.number] = sequence
        need = self._need(self._grow_blocks + 1, 1, 0)  # all but the tail is to be lent
        self._negotiator.borrow(sequence.number, need, now)

    def _adopt_more(self, sequence: Sequence, placed: Placed) -> None:
        """The oldest own sealed leaves move to the new slots and leave their blocks behind."""
        num_sealed = sequence.num_computed // self._layout.tokens
        own = [
            leaf
            for leaf in range(num_sealed)
            if not sequence.table[leaf].loan and leaf not in sequence.targets
        ]
        slots = [instance for instance in placed.holders if instance != self._instance]
        leaves = dict(zip(own, slots, strict=False))
        self._holdings.adopt(sequence, placed.grants, leaves)
        self._holdings.move_sealed(sequence)
