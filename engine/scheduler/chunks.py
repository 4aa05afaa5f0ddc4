"""Chunks: how many query tokens a step may have, so that next tokens come in time. No I/O.

A chunk of a prompt takes longer the more keys are before it, and everybody who decodes waits for
it. With a limit, chunks beside next tokens are as long as the last one's time allows.
"""

from engine.core import Plan

LEAST = 16
"""prompt tokens that a step may have in any case"""
GROWTH = 2
"""how much longer than the last chunk the next one may be: it may have more keys before it"""


class Chunks:
    """``budget`` before a step, ``timed`` behind it."""

    def __init__(self, max_step_tokens: int, max_tpot_s: float) -> None:
        """``max_tpot_s``: seconds; 0: no limit."""
        self._most = max_step_tokens
        self._limit_s = max_tpot_s
        self._num_rows = max_step_tokens
        """prompt tokens that a step beside next tokens may have"""
        self._decode_s = 0.0
        """of the last step without prompts"""

    def budget(self, num_decodes: int) -> int:
        """Query tokens of a step with so many next tokens."""
        if not self._limit_s or not num_decodes:
            return self._most
        return min(self._most, num_decodes + self._num_rows)

    def timed(self, plan: Plan, seconds: float) -> None:
        """How long a step took."""
        if not self._limit_s:
            return
        num_decodes = sum(span.num_rows == 1 for span in plan.spans)
        num_rows = plan.num_rows - num_decodes
        if not num_rows:
            self._decode_s = seconds
        elif num_decodes:
            base_s = min(self._decode_s, 0.9 * seconds)
            fitting = num_rows * (self._limit_s - base_s) / max(seconds - base_s, 1e-9)
            most = min(GROWTH * max(num_rows, LEAST), self._most)
            self._num_rows = max(LEAST, min(int(fitting), most))
