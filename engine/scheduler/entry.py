"""Entry: a request of a gateway, its attempts, and what is known of its answer. No I/O."""

from dataclasses import dataclass, field

from engine.core import Request, Score
from engine.protocol import Life, Report

FIRST, HANDED_OVER, LOST = "first", "hand_over", "step_lost"
"""why an attempt began: what became of the one before it"""


@dataclass(slots=True)
class Attempt:
    """A request's run at one instance."""

    number: int
    instance: int
    began_s: float
    """since the request was accepted"""
    why: str
    num_tokens: int
    """of the answer, when it began"""
    life: Life | None = None
    """as its step last told of it"""


@dataclass(slots=True)
class Entry:
    """A request, and what is known of its answer."""

    request: Request
    arrived: float
    life: str = ""
    token_ids: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    """of the tokens, if the request wants logprobs"""
    prompt_scores: list[Score] = field(default_factory=list)
    """of the prompt's tokens but the first, if it wants those"""
    finish_reason: str = ""
    error: str = ""
    error_code: str = ""
    report: Report | None = None
    attempt: int = 0
    attempt_id: str = field(init=False)
    """what its instance calls it"""
    attempts: list[Attempt] = field(default_factory=list)
    why: str = FIRST
    """of the next attempt"""
    instance: int | None = None
    address: str = ""
    started_at: float | None = None
    """when an instance first said that it works on it"""
    first_token_at: float | None = None
    num_reused: int = 0
    """tokens of the prompt whose keys were found, not computed"""
    last_token_at: float | None = None
    ended_at: float | None = None

    def __post_init__(self) -> None:
        self.attempt_id = self._attempt_id()

    @property
    def done(self) -> bool:
        return bool(self.finish_reason or self.error)

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt_ids) + self.request.sampling.max_tokens

    def begin(self, instance: int, address: str, now: float) -> None:
        """The next attempt, at this instance."""
        self.instance, self.address = instance, address
        self.attempt += 1
        self.attempt_id = self._attempt_id()
        began_s, num_tokens = now - self.arrived, len(self.token_ids)
        self.attempts.append(Attempt(self.attempt, instance, began_s, self.why, num_tokens))

    def _attempt_id(self) -> str:
        return f"{self.request.request_id}#{self.life}.{self.attempt}"
