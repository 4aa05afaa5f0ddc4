"""Scheduler: continuous batching and chunked prefill over own and borrowed blocks. No I/O.

``schedule`` gives the next step's plan, ``commit`` takes its tokens; what must be done outside
(draw blocks, reserve loans, move sealed blocks, tell clients) is collected by ``take_effects``.

Its other half, ``Desk``, talks with pools and planner.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Many

from engine import protocol as p
from engine.core import Plan, Request, Scores
from engine.memory.contents import Contents
from engine.scheduler.desk import Desk
from engine.scheduler.effects import Effect, ToPool
from engine.scheduler.sequence import Sequence

STRAIN_S = 0.1


class Scheduler(Desk):
    """The sequences of one instance."""

    # --- what comes in ------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a request; one that can never run is refused with numbers at once."""
        if self.is_leaving:
            self.clients.hand_over(request)
        elif self.clients.accept(request):
            token_ids = [*request.prompt_ids, *request.answer_ids]
            if reason := self.allowance.refusal_for_ever(request, len(token_ids)):
                self.clients.fail(request, reason, "lending_limit")
                return
            self.admission.queue(Sequence(self._next_number, request, token_ids))
            self._next_number += 1

    def abort(self, request_id: str) -> None:
        """Stop a request wherever it is; its memory is free at once."""
        for sequence in self.roster.all():
            if sequence.request.request_id == request_id:
                self._stop(sequence)

    def refuse(self, number: int, reason: str, code: str) -> None:
        """A running sequence that cannot be computed here; the client is told why."""
        for sequence in [one for one in self.running if one.number == number]:
            self.roster.drop(sequence, final=False)
            self.clients.fail(sequence.request, reason, code)

    def load(self, now: float) -> p.Load:
        """What the planner wants to know of this step."""
        self.loads.is_leaving = self.is_leaving
        return self.loads.report(
            self.roster.all(),
            self.admission.num_missing_blocks(),
            self.holdings,
            self.debts,
            self.chronicle.counts,
            now,
        )

    @property
    def contents(self) -> Contents:
        """What this instance can read of whose prompts, for KV events."""
        return self.holdings.store.contents

    @property
    def evacuated(self) -> bool:
        """It was told to leave, and nothing is left here."""
        return self.is_leaving and not self.roster.all()

    @property
    def awaits_answer(self) -> bool:
        """A sequence would have its memory, if only those who were asked had answered."""
        return self.holdings.drawing or self.negotiator.is_dealing or self.pins.is_searching

    # --- the step -----------------------------------------------------------------------------

    def schedule(self, now: float) -> Plan | None:
        """The next step, or None when nothing can run now."""
        self.tick(now)
        plan = self.batch.plan(self.running, self.holdings, now)
        for sequence in self.batch.short:
            if not sequence.moving:  # else moves under way will free some
                self.growth.grow(sequence, now)
        if plan is None:
            self._give_surplus()
        return plan

    def commit(
        self,
        plan: Plan,
        next_ids: Mapping[int, int],
        scores: Scores,
        complete: frozenset[int],
        poisoned: frozenset[int],
        now: float,
    ) -> None:
        """Book a finished step; ``next_ids`` maps a sampled span's index to its token.

        ``complete`` are the indexes of those whose answer ends with it, whatever the token is.
        Poisoned sequences publish nothing and run the same rows again.
        """
        self.chronicle.now = now
        self.loads.ran(plan.num_rows)
        by_number = {sequence.number: sequence for sequence in self.running}
        tokens = self._layout.tokens
        for index, span in enumerate(plan.spans):
            sequence = by_number.get(span.sequence)
            if sequence is None or span.sequence in poisoned:
                continue
            was_prefill, was_hole = sequence.is_prefill, bool(sequence.holes)
            sequence.advance(span.num_rows)
            end = span.first_position + span.num_rows
            if end // tokens > span.first_position // tokens:
                self.holdings.seal(sequence, span.first_position, end)
            if was_hole:
                sequence.recomputed_tokens += span.num_rows
                self.chronicle.note(sequence, "recomputed", amount=span.num_rows)
            elif was_prefill:
                self.chronicle.note(sequence, "computed", amount=span.num_rows)
                self.clients.progress(sequence)
            if index in scores.prompt:
                self.clients.publish_scores(sequence, scores.prompt[index])
            if index in next_ids:
                if sequence.num_output == len(sequence.request.answer_ids):
                    self.chronicle.note(sequence, "first_token")
                sequence.token_ids.append(next_ids[index])
                self.admission.turns.answered(sequence.request.tenant)
                if not sequence.targets:  # nothing passes through to creditors any more
                    self.holdings.trim(sequence, 1)
                score = scores.answer.get(index)
                if self.clients.publish(sequence, score, index in complete):
                    self._stop(sequence)

    def timed(self, plan: Plan, lasted: Many[float], now: float, trip_s: float) -> None:
        """How long each step took that ran this plan, one after another; when tokens come too
        slowly, chunks are shorter, and the own pool serves others less.

        ``trip_s``: what a step takes longer when it asks another instance.
        """
        self.loads.timed(plan, lasted, self._layout.tokens)
        self.prices.timed(plan, lasted, trip_s)
        self.chunks.timed(plan, lasted[-1])
        limit_s = self._config.max_tpot_s
        if limit_s and self.loads.step_s > limit_s and now >= self._next_strain:
            self._next_strain = now + 2 * STRAIN_S  # others starve for half of the time at most
            self._effects.append(ToPool(self._instance, p.Strain(STRAIN_S)))

    def take_effects(self) -> list[Effect]:
        """What is to be done now, in order; empties the list."""
        effects = self._effects[:]
        self._effects.clear()
        return effects

    @property
    def has_effects(self) -> bool:
        return bool(self._effects)

    # --- inside -------------------------------------------------------------------------------

    def _stop(self, sequence: Sequence) -> None:
        keep = self._config.prefix_caching
        self.roster.drop(sequence, final=True, keep_own=keep, keep_lent=keep)
        self.admission.wake()
        self._give_surplus()
