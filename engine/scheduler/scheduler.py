"""Scheduler: continuous batching and chunked prefill over own and borrowed blocks. No I/O.

``schedule`` gives the next step's plan, ``commit`` takes its tokens; what must be done outside
(draw blocks, reserve loans, move sealed blocks, tell clients) is collected by ``take_effects``.

When memory is short: draw from the own pool, borrow, and as the last resort preempt the youngest
sequence, which is recomputed later.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from engine import protocol as p
from engine.core import BlockLayout, Plan, Request, SamplingParams, Span
from engine.scheduler.admission import Admission
from engine.scheduler.base import Placement
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Effect, ToClient
from engine.scheduler.holdings import Holdings
from engine.scheduler.negotiator import Negotiator, Placed
from engine.scheduler.sequence import Sequence


class Scheduler:
    """The sequences of one instance."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        max_step_tokens: int = 256
        """query tokens in one step: decodes first, the rest for prefill chunks"""
        max_num_seqs: int = 32
        grow_blocks: int = 4
        """blocks a running sequence draws or borrows at a time"""
        lease_s: float = 30.0
        retry_s: float = 0.1
        """a sequence that found no memory pauses twice this, then twice as long, up to 5 s"""

    def __init__(
        self,
        config: Config,
        *,
        instance: int,
        host: str,
        layout: BlockLayout,
        placement: Placement,
        num_blocks: int,
        max_positions: int,
        eos_ids: frozenset[int],
    ) -> None:
        self._config = config
        self._layout = layout
        self._max_positions = max_positions
        self._eos_ids = eos_ids
        self._effects: list[Effect] = []
        self.debts = Debts()
        self.holdings = Holdings(
            instance=instance, layout=layout, debts=self.debts, effects=self._effects
        )
        self.negotiator = Negotiator(
            placement, self.debts, effects=self._effects, lease_s=config.lease_s
        )
        self.admission = Admission(
            instance=instance,
            host=host,
            layout=layout,
            placement=placement,
            holdings=self.holdings,
            negotiator=self.negotiator,
            num_blocks=num_blocks,
            working_blocks=layout.blocks_for(config.max_step_tokens) + 1,
            grow_blocks=config.grow_blocks,
            retry_s=config.retry_s,
            effects=self._effects,
        )
        self.running: list[Sequence] = []
        self._next_number = self._next_step = 1
        self.num_preempted = 0

    # --- what comes in ------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a request; one that can never run is refused with numbers at once."""
        num_prompt = len(request.prompt_ids)
        if not num_prompt:
            self._fail(request.request_id, "the prompt is empty; send at least one token")
        elif num_prompt >= self._max_positions:
            self._fail(
                request.request_id,
                f"the prompt has {num_prompt} tokens and the model {self._max_positions} "
                "positions, one of which an answer needs; shorten the prompt",
            )
        else:
            sequence = Sequence(self._next_number, request, list(request.prompt_ids))
            self._next_number += 1
            self.admission.waiting.append(sequence)

    def abort(self, request_id: str) -> None:
        """Stop a request wherever it is; its memory is free at once."""
        for sequence in self._all():
            if sequence.request.request_id == request_id:
                self._stop(sequence)

    def on_message(self, instance: int, message: p.Message, now: float) -> None:
        """A pool's answer."""
        match message:
            case p.Drawn():
                self.holdings.on_drawn(message)
                self.admission.on_drawn(len(message.blocks), now)
            case p.Granted():
                self.negotiator.on_granted(instance, message)
            case p.Refused():
                self.negotiator.on_refused(instance, message, now)
            case p.Renewed():
                self._lose(self.debts.on_renewed(instance, message), now)
            case p.FencedOff():  # which loans stand? The answer to a Renew says it
                self._effects += self.debts.renew(instance, now)
        self._settle(now)

    def on_offer(self, offer: p.BorrowOffer, now: float) -> None:
        self.negotiator.on_offer(offer, now)
        self._settle(now)

    def on_moved(self, number: int, leaf: int) -> None:
        """The mover's report that a holder has committed a leaf."""
        for sequence in self.running:
            if sequence.number == number and leaf in sequence.moving:
                self.holdings.moved(sequence, leaf)

    def on_lost(self, instance: int, now: float) -> None:
        """An instance's pool is gone: what lay there must be computed again."""
        self._lose(self.debts.forget(instance), now)
        self.negotiator.on_lost(instance, now)
        self._settle(now)

    def tick(self, now: float) -> None:
        self._lose(self.debts.expired(now), now)
        self._effects += self.debts.tick(now)
        self.negotiator.tick(now)
        if len(self.running) < self._config.max_num_seqs:
            self.admission.admit(now)
        self._settle(now)

    # --- the step -----------------------------------------------------------------------------

    def schedule(self, now: float) -> Plan | None:
        """The next step, or None when nothing can run now."""
        self.tick(now)
        budget = self._config.max_step_tokens
        spans: list[Span] = []
        tokens: list[int] = []
        sampled: list[int] = []
        for sequence in sorted(self.running, key=lambda one: (one.is_prefill, one.number)):
            num_rows = min(budget, len(sequence.token_ids) - sequence.num_computed)
            if not num_rows or not self._extend_table(sequence, num_rows):
                continue
            first = sequence.num_computed
            if first + num_rows == len(sequence.token_ids):
                sampled.append(len(spans))
            table = tuple(sequence.table[: self._layout.blocks_for(first + num_rows)])
            spans.append(
                Span(sequence.number, len(tokens), num_rows, first, table, sequence.table_version)
            )
            tokens += sequence.token_ids[first : first + num_rows]
            budget -= num_rows
        if not spans:
            self._give_surplus()
            return None
        self._next_step += 1
        return Plan(self._next_step, tuple(tokens), tuple(spans), tuple(sampled))

    def commit(self, plan: Plan, next_ids: Mapping[int, int], poisoned: frozenset[int]) -> None:
        """Book a finished step; ``next_ids`` maps a sampled span's index to its token.

        Poisoned sequences publish nothing and run the same rows again.
        """
        by_number = {sequence.number: sequence for sequence in self.running}
        for index, span in enumerate(plan.spans):
            sequence = by_number.get(span.sequence)
            if sequence is None or span.sequence in poisoned:
                continue
            first_leaf = sequence.num_computed // self._layout.tokens
            was_prefill = sequence.is_prefill
            sequence.num_computed += span.num_rows
            self.holdings.seal(sequence, first_leaf)
            if was_prefill:
                self._tell_progress(sequence)
            if index in next_ids:
                sequence.token_ids.append(next_ids[index])
                if not sequence.targets:  # nothing passes through to creditors any more
                    self.holdings.trim(sequence, 1)
                self._publish(sequence)

    def take_effects(self) -> list[Effect]:
        """What is to be done now, in order; empties the list."""
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def sampling_of(self, number: int) -> SamplingParams:
        return next(one.request.sampling for one in self.running if one.number == number)

    @property
    def num_waiting(self) -> int:
        return len(self.admission.waiting) + (self.admission.placing is not None)

    # --- inside -------------------------------------------------------------------------------

    def _extend_table(self, sequence: Sequence, num_rows: int) -> bool:
        """Blocks for the rows' keys; False when they are not there yet."""
        wanted = self._layout.blocks_for(sequence.num_computed + num_rows) - len(sequence.table)
        missing = wanted - len(sequence.spare)
        if missing > 0 and (available := min(missing, self.holdings.store.num_free)):
            self.holdings.reserve(sequence, available)
            missing -= available
        if missing > 0:
            if not sequence.moving:  # else moves under way will free some
                self.admission.grow(sequence)
            return False
        for _ in range(wanted):
            self.holdings.grow_table(sequence)
        return True

    def _settle(self, now: float) -> None:
        """Act on what the negotiator has found."""
        while self.negotiator.outcomes:
            outcome = self.negotiator.outcomes.pop(0)
            if isinstance(outcome, Placed):
                started = self.admission.on_placed(outcome)
                if started is not None:
                    self.running.append(started)
            else:
                short = self.admission.on_not_placed(outcome, now)
                if short is not None:
                    self._restart(max(self.running, key=lambda one: one.number))
                    self.num_preempted += 1
                    if short in self.running and self.holdings.store.num_free:
                        self.holdings.reserve(short, 1)  # before it goes to who waits
                self._give_surplus()

    def _publish(self, sequence: Sequence) -> None:
        request = sequence.request
        last = sequence.token_ids[-1]
        reason = ""
        if last in self._eos_ids and not request.sampling.ignore_eos:
            reason = "stop"
        elif (
            sequence.num_output >= request.sampling.max_tokens
            or len(sequence.token_ids) >= self._max_positions
        ):
            reason = "length"
        tokens = p.Tokens(request.request_id, sequence.num_output - 1, [last], reason)
        self._effects.append(ToClient(request.request_id, tokens))
        if reason:
            self._stop(sequence)

    def _tell_progress(self, sequence: Sequence) -> None:
        name = sequence.request.request_id
        done = min(sequence.num_computed, sequence.num_prompt)
        self._effects.append(ToClient(name, p.Progress(name, done, sequence.num_prompt)))

    def _restart(self, sequence: Sequence) -> None:
        """Drop its memory and queue it again; its tokens stay, their keys are recomputed."""
        self.running.remove(sequence)
        self.admission.withdraw(sequence)
        sequence.recomputed_tokens += sequence.num_computed
        self.holdings.drop(sequence, final=False)
        self.admission.queue_again(sequence)

    def _lose(self, loans: set[tuple[int, int]], now: float) -> None:
        for key in loans:
            self.debts.remove(*key)
        self.negotiator.on_gone(loans, now)
        for sequence in [one for one in self.running if loans & one.loans.keys()]:
            for key in loans & sequence.loans.keys():
                del sequence.loans[key]  # gone already: nothing to give back
            self._restart(sequence)

    def _stop(self, sequence: Sequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
        self.admission.withdraw(sequence)
        self.holdings.drop(sequence, final=True)
        self._give_surplus()

    def _give_surplus(self) -> None:
        """Free blocks go back to the pool, but for some that running sequences will soon want."""
        self.holdings.give_surplus(self._config.grow_blocks if self.running else 0)

    def _all(self) -> list[Sequence]:
        placing = [self.admission.placing] if self.admission.placing else []
        return [*self.running, *self.admission.waiting, *placing]

    def _fail(self, request_id: str, reason: str) -> None:
        self._effects.append(ToClient(request_id, p.Failed(request_id, reason)))
