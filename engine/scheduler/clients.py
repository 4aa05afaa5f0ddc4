"""Clients: what those who submitted requests are told. No I/O."""

from collections.abc import Sequence as Several

from engine.core import Request, Score
from engine.protocol import Failed, HandedOver, Life, Message, Progress, PromptScores, Tokens
from engine.scheduler.effects import Effect, ToClient
from engine.scheduler.sequence import Sequence


class Clients:
    def __init__(
        self, *, max_positions: int, eos_ids: frozenset[int], effects: list[Effect]
    ) -> None:
        self._max_positions = max_positions
        self._eos_ids = eos_ids
        self._effects = effects

    def accept(self, request: Request) -> bool:
        """False when it can never run, which the client is told with numbers."""
        num_prompt = len(request.prompt_ids)
        num_given = num_prompt + len(request.answer_ids)
        if not num_prompt:
            self.fail(request, "the prompt is empty; send at least one token")
        elif num_given >= self._max_positions:
            self.fail(
                request,
                f"the prompt has {num_given} tokens and the model {self._max_positions} "
                "positions, one of which an answer needs; shorten the prompt",
            )
        else:
            return True
        return False

    def fail(self, request: Request, reason: str, code: str = "too_large") -> None:
        self._tell(request, Failed(request.request_id, reason, code))

    def hand_over(self, request: Request, life: Life | None = None) -> None:
        self._tell(request, HandedOver(request.request_id, life or Life()))

    def progress(self, sequence: Sequence) -> None:
        """A prefill has got on."""
        request = sequence.request
        num_total = sequence.num_prompt + len(request.answer_ids)
        done = min(sequence.num_computed, num_total)
        self._tell(request, Progress(request.request_id, done, num_total))

    def publish(self, sequence: Sequence, score: Score | None, is_complete: bool) -> bool:
        """Send the newest token; True when it was the last one, as it is in a complete answer."""
        request, token_ids = sequence.request, sequence.token_ids
        sampling = request.sampling
        last, num_output = token_ids[-1], len(token_ids) - sequence.num_prompt
        reason = ""
        is_end = last in self._eos_ids and not sampling.ignore_eos
        is_end |= last in sampling.stop_token_ids
        if is_complete or (num_output > sampling.min_tokens and is_end):
            reason = "stop"
        elif num_output >= sampling.max_tokens or len(token_ids) >= self._max_positions:
            reason = "length"
        scores = [] if score is None else [score]
        reused = 0 if num_output > 1 else min(sequence.num_reused, sequence.num_prompt)
        told = Tokens(request.request_id, num_output - 1, [last], reason, scores, reused)
        self._tell(request, told)
        return bool(reason)

    def publish_scores(self, sequence: Sequence, scores: Several[Score]) -> None:
        """Of the prompt's next tokens."""
        name, index = sequence.request.request_id, sequence.num_scored
        sequence.num_scored += len(scores)
        self._tell(sequence.request, PromptScores(name, index, list(scores)))

    def _tell(self, request: Request, message: Message) -> None:
        self._effects.append(ToClient(request.request_id, message))
