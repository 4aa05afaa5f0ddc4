"""Chooser: the next tokens of a step's sequences, and what is told with them."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from engine.constrained import Constrained
from engine.core import Plan, Score, Scores
from engine.model.sampler import Row, sample
from engine.model.scores import score
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.sequence import Sequence


class Choices(NamedTuple):
    """By index of the span."""

    next_ids: dict[int, int]
    scores: Scores
    """for those who asked"""
    complete: frozenset[int]
    """answers that may not go on behind the token"""


class Chooser:
    def __init__(
        self, scheduler: Scheduler, constrained: Constrained, eos_ids: Collection[int]
    ) -> None:
        self._scheduler = scheduler
        self._constrained = constrained
        self._eos_ids = eos_ids

    def choose(self, plan: Plan, logits_NV: Tensor, poisoned: frozenset[int]) -> Choices:
        """From the logits of the sampled spans' last rows, then of ``plan.scored``.

        A sequence whose grammar lets it go nowhere is refused.
        """
        running = {one.number: one for one in self._scheduler.running}
        sequences = [running[plan.spans[index].sequence] for index in plan.sampled]
        prompt: dict[int, tuple[Score, ...]] = {}
        if plan.scored:
            prompt = _prompt_scores(plan, logits_NV[len(sequences) :], running)
            logits_NV = logits_NV[: len(sequences)]
        allowed = self._constrained.allowed(sequences, self._refuse)
        rows = [
            Row(one.request.sampling, one.token_ids, one.num_prompt, allowed.get(index))
            for index, one in enumerate(sequences)
        ]
        tokens = sample(logits_NV, rows, self._eos_ids)
        answer, complete = {}, set()
        for row, index in enumerate(plan.sampled):
            num_top = rows[row].params.logprobs
            if num_top is not None:
                answer[index] = score(logits_NV[row].numpy(force=True), tokens[row], num_top)
            if sequences[row].number in poisoned:
                continue  # it will choose again
            if self._constrained.completes(sequences[row], tokens[row]):
                complete.add(index)
        next_ids = dict(zip(plan.sampled, tokens, strict=True))
        return Choices(next_ids, Scores(answer, prompt), frozenset(complete))

    def _refuse(self, sequence: Sequence, reason: str) -> None:
        self._scheduler.refuse(sequence.number, reason, "grammar")


def _prompt_scores(
    plan: Plan, logits_NV: Tensor, running: Mapping[int, Sequence]
) -> dict[int, tuple[Score, ...]]:
    found = {}
    rows = iter(logits_NV)
    for one in plan.scored:
        sequence = running[plan.spans[one.span].sequence]
        num_top = sequence.request.sampling.prompt_logprobs or 0
        found[one.span] = tuple(
            score(next(rows).numpy(force=True), token, num_top) for token in one.token_ids
        )
    return found
