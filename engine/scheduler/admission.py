"""Admission: the queue, and how a sequence gets memory before it runs. No I/O.

One sequence is placed at a time, in the order of ``order``. Draw what the own pool has, call back
what it lent, let the placement decide, borrow the rest all or nothing. Who finds nothing gives back
what it was just given and pauses, longer each time, or until the planner says that there is enough.
"""

from collections.abc import Mapping
from dataclasses import replace

from engine.core import BlockLayout
from engine.errors import CapacityError
from engine.memory.blocks import chain
from engine.protocol import Drawn, Failed
from engine.scheduler.base import Need, Placement
from engine.scheduler.effects import Effect, ToClient
from engine.scheduler.growth import REDRAW_S, Growth
from engine.scheduler.holdings import Holdings
from engine.scheduler.loads import Loads
from engine.scheduler.negotiator import Negotiator, NotPlaced, Placed
from engine.scheduler.order import next_of
from engine.scheduler.pins import Pins
from engine.scheduler.sequence import Sequence, State
from engine.scheduler.turns import Turns

MAX_RECALL_S = 3.0
"""longest wait for recalled blocks: while they stay out longer, others' are borrowed"""
MAX_LOOKED_UP = 3072
"""leaves that a sequence looks for: their hashes are one message"""


class Admission:
    """Sequences without memory, or without all of it."""

    def __init__(
        self,
        *,
        need: Need,
        layout: BlockLayout,
        placement: Placement,
        holdings: Holdings,
        negotiator: Negotiator,
        pins: Pins,
        growth: Growth,
        retry_s: float,
        lease_s: float,
        sure_s: float,
        prefix_caching: bool,
        loads: Loads,
        effects: list[Effect],
    ) -> None:
        self._need = need
        self._layout = layout
        self._placement = placement
        self._holdings = holdings
        self._negotiator = negotiator
        self._pins = pins
        self._growth = growth
        self._retry_s = retry_s
        self._lease_s = lease_s
        self._sure_s = sure_s
        self.turns = Turns()
        self._prefix_caching = prefix_caching
        self._loads = loads
        self.waiting: list[Sequence] = []
        self.placing: Sequence | None = None
        self._redraw: tuple[float, float] | None = None
        """recalled blocks are coming for the one being placed: when to look, and until when"""
        self._has_freed = False
        """memory has become free since the one being placed began"""
        self._effects = effects

    def admit(self, now: float) -> None:
        """Start to place the next sequence, if none is being placed; go on with one that waits."""
        if self.placing:
            self._go_on(self.placing, now)
            return
        if not self.waiting or self._holdings.drawing or self._growth.borrowing:
            return  # running ones come first
        sequence = next_of(self.waiting, self.turns, now)
        if sequence is None:
            return
        self.waiting.remove(sequence)
        self.placing, sequence.state = sequence, State.PLACING
        self._has_freed = False
        self._look_up(sequence, now)

    def on_drawn(self, drawn: Drawn, now: float) -> None:
        """Blocks came for the one being placed."""
        assert self.placing is not None
        if self._pins.is_searching:  # what else it needs is drawn when that is over
            return
        if self.num_missing(self.placing) > 0 and drawn.num_recalled:
            _, until = self._redraw or (now, now + min(drawn.recall_s, MAX_RECALL_S))
            if now < until:
                self._redraw = (now + REDRAW_S, until)
                return
        self._redraw = None
        sequence = self.placing
        self._place(sequence, now)
        sequence.on_host = False

    def on_placed(self, placed: Placed) -> Sequence:
        """Memory was found; returns the sequence, which starts to run with it."""
        sequence = self.placing
        assert sequence is not None
        assert sequence.number == placed.sequence
        wanted = sequence.to_place(self._layout.tokens)
        leaves = {
            leaf: instance
            for leaf, instance in zip(wanted, placed.holders, strict=False)
            if instance != self._need.owner
        }
        self._holdings.adopt(sequence, placed.grants, leaves)
        self.placing = None
        self.turns.admitted(sequence)
        num_own = len(wanted) - len(leaves)
        self._holdings.chronicle.note(sequence, "started", amount=num_own)
        self._holdings.trim(sequence, num_own + (self._need.working_blocks if leaves else 0))
        sequence.state, sequence.num_tries = State.RUNNING, 0
        sequence.hopeless_since = None
        sequence.on_host = False
        if sequence.is_reused:
            num_found = sequence.num_computed - sum(end - at for at, end in sequence.holes)
            self._holdings.chronicle.note(sequence, "found", amount=num_found)
        self._loads.looked_up(sequence, self._layout.tokens)
        return sequence

    def on_not_placed(self, failed: NotPlaced, now: float) -> None:
        """Nothing was found: it pauses, or is refused if that will stay so."""
        sequence = self.placing
        assert sequence is not None
        assert sequence.number == failed.sequence
        self.placing = None
        self._holdings.trim(sequence, 0)
        missing = max(0, self.num_missing(sequence))
        self._holdings.chronicle.note(sequence, "waits", amount=missing)
        sequence.num_tries += 1
        if not failed.hopeless:
            sequence.hopeless_since = None
        elif sequence.hopeless_since is None:
            sequence.hopeless_since = now
        elif now - sequence.hopeless_since >= self._sure_s and not sequence.table:
            wanted = len(sequence.to_place(self._layout.tokens))
            reason = (
                f"a context of {len(sequence.token_ids)} tokens needs {wanted} blocks of "
                f"{self._layout.tokens}; this instance has {self._need.num_pool}. {failed.reason}"
            )
            self._effects.append(
                ToClient(sequence.request.request_id, Failed(sequence.request.request_id, reason))
            )
            return
        pause = min(self._retry_s * 2 ** min(sequence.num_tries, 10), 5.0)
        # Instances that refuse each other must not try again in step.
        pause *= 1 + self._need.owner % 7 / 10
        fits_home = self._growth.fits_home(sequence)
        sequence.may_be_passed = not (fits_home or failed.is_held or sequence.table)
        sequence.not_before = 0.0 if self._has_freed else now + pause
        sequence.on_host = True
        self.queue_again(sequence)

    def wake(self) -> None:
        """Memory has become free: whoever paused for want of it need not wait any longer."""
        self._has_freed = True
        for sequence in self.waiting:
            sequence.not_before = 0.0

    def queue(self, sequence: Sequence) -> None:
        """A new one, behind all of its tenant's."""
        tenant = sequence.request.tenant
        if not any(one.request.tenant == tenant for one in self.waiting):
            self.turns.began_to_wait(tenant)
        self.waiting.append(sequence)

    def queue_again(self, sequence: Sequence) -> None:
        """Back into the queue, at its place by arrival."""
        sequence.state = State.WAITING
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda one: one.seniority)

    def withdraw(self, sequence: Sequence) -> None:
        """The sequence no longer wants memory: it ends or starts over."""
        self._negotiator.cancel(sequence.number)
        self._pins.cancel(sequence)
        self._growth.withdraw(sequence)
        if self._holdings.draw_for is sequence:
            self._holdings.draw_for = None
        if self.placing is sequence:
            self.placing = self._redraw = None
        if sequence in self.waiting:
            self.waiting.remove(sequence)

    def num_missing_blocks(self) -> int:
        """Blocks that all waiting sequences want."""
        tokens = self._layout.tokens
        return sum(sequence.num_to_place(tokens) for sequence in self.waiting)

    def _look_up(self, sequence: Sequence, now: float) -> None:
        """Find its keys where others have left them, before it is given memory to compute them."""
        tokens, has_failed = self._layout.tokens, sequence.is_plain
        sequence.chain, sequence.is_plain = [], False
        wants_all_rows = sequence.request.sampling.prompt_logprobs is not None
        if sequence.table or has_failed or wants_all_rows:
            self._draw(sequence, now)
            return
        # The last token's keys are computed in any case: its row gives the next token.
        num_leaves = min((len(sequence.token_ids) - 1) // tokens, MAX_LOOKED_UP)
        store = self._holdings.store
        sequence.chain = chain(sequence.root, sequence.token_ids, num_leaves, tokens, store.salt)
        if self._prefix_caching:
            self._holdings.share(sequence, range(num_leaves))
        left = {leaf: of for leaf, of in enumerate(sequence.chain) if not sequence.has(leaf)}
        if not left or not self._pins.search(sequence, left, self._lease_s, now):
            self._draw(sequence, now, left)
        elif self._prefix_caching:  # what is here as well is used here
            self._holdings.draw(0, whom=sequence, wanted=left)

    def _go_on(self, sequence: Sequence, now: float) -> None:
        if self._holdings.drawing:
            return
        found = self._pins.result(now)
        if found is not None:
            self._draw(found, now)
        elif self._redraw is not None and now >= self._redraw[0]:
            self._draw(sequence, now)

    def num_missing(self, sequence: Sequence) -> int:
        """Own blocks that would spare it any borrowing."""
        there = len(sequence.spare) + self._holdings.store.num_free
        return sequence.num_to_place(self._layout.tokens) - there

    def _draw(
        self, sequence: Sequence, now: float, wanted: Mapping[int, bytes] | None = None
    ) -> None:
        """Draw what it misses, and first of all what may be cached of these leaves."""
        missing = self.num_missing(sequence)
        wanted = wanted if wanted and self._prefix_caching else {}
        if missing > 0 or (wanted and self._holdings.store.has_left(next(iter(wanted.values())))):
            recall = self._growth.fits_home(sequence)
            self._holdings.draw(
                max(0, missing),
                whom=sequence,
                recall=recall,
                host=sequence.on_host,
                wanted=wanted,
            )
        else:
            self._place(sequence, now)

    def _place(self, sequence: Sequence, now: float) -> None:
        wanted = sequence.to_place(self._layout.tokens)
        missing = len(wanted) - len(sequence.spare)
        if missing > 0:
            self._holdings.reserve(sequence, min(missing, self._holdings.store.num_free))
        num_local, working = len(sequence.spare), self._need.working_blocks
        has_tail = not wanted or wanted[-1] < len(sequence.table)
        if has_tail:  # the last leaf is at home already
            num_local += 1
            working = min(working, len(sequence.spare))
        need = replace(
            self._need,
            num_blocks=len(wanted) + has_tail,
            num_local=num_local,
            working_blocks=working,
        )
        if wanted and not sequence.spare:
            if not self._make_working_room(sequence, now):
                reason = "not one block of the own pool is free to compute keys in"
                self._negotiator.outcomes.append(NotPlaced(sequence.number, reason, False))
            return
        try:
            holders = self._placement.place(need, ())
        except CapacityError:
            self._borrow(sequence, need, now)
        else:
            self._negotiator.outcomes.append(Placed(sequence.number, holders, {}))

    def _borrow(self, sequence: Sequence, need: Need, now: float) -> None:
        request, allowance = sequence.request, self._growth.allowance
        if reason := allowance.refusal(sequence, need.num_lacking):
            never = allowance.refusal_for_ever(request, len(sequence.token_ids))
            self._negotiator.outcomes.append(NotPlaced(sequence.number, reason, bool(never)))
            return
        arrived, priority = sequence.arrived, request.priority
        self._negotiator.borrow(sequence.number, need, now, arrived=arrived, priority=priority)

    def _make_working_room(self, sequence: Sequence, now: float) -> bool:
        """One that lost blocks lends one of its own first, to compute in; tried once."""
        if sequence.num_tries or not self._holdings.own_sealed(sequence):
            return False
        sequence.num_tries, sequence.not_before = 1, now + REDRAW_S
        self.placing = None
        self.queue_again(sequence)
        self._growth.lend_out(sequence, 1, now)
        return True
