"""Pace: the tokens that have come, and the time between them, by the instance that made them."""

from collections import Counter

from engine.core import Distribution

GAP_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
)


class Pace:
    """All of it only grows. No I/O, no clock."""

    def __init__(self) -> None:
        self.tokens: Counter[int] = Counter()
        self.prompt_tokens: Counter[int] = Counter()
        """of requests whose first token came"""
        self.reused_tokens: Counter[int] = Counter()
        """of these, those whose keys were found, not computed"""
        self.gaps: dict[int, Distribution] = {}
        """seconds between two tokens of a request"""

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens.values())

    def began(self, instance: int, num_prompt: int, num_reused: int = 0) -> None:
        """A request's first token came."""
        self.prompt_tokens[instance] += num_prompt
        self.reused_tokens[instance] += num_reused

    def took(self, instance: int, num_tokens: int, gap_s: float | None) -> None:
        """More tokens came, so long after those before them; None for a request's first ones."""
        self.tokens[instance] += num_tokens
        if gap_s is not None:
            if instance not in self.gaps:
                self.gaps[instance] = Distribution(GAP_BOUNDS_S)
            self.gaps[instance].add(gap_s / num_tokens)
