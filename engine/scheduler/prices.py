"""Prices: whether found keys are read where they lie, copied, or computed again. No I/O.

    read      steps to come * what a step takes longer when it asks another instance
    copy      blocks * seconds to copy one, in the background
    compute   tokens * seconds of a prompt's token

All three are learned from the steps and copies that were made.
"""

from collections.abc import Sequence as Many

from engine.core import BlockLayout, Plan
from engine.scheduler.sequence import Sequence

LEARNING = 0.2
"""share of the newest in what is believed"""
TOKEN_S = 1e-3
"""before anything was seen: a prompt's token"""
BYTE_S = 1e-9
"""and a copied byte"""
ASK_S = 0.005
"""to ask who has them"""
FEW = 8
"""rows of a step that tells little of what a row takes"""


class Prices:
    def __init__(self, layout: BlockLayout) -> None:
        self._tokens = layout.tokens
        self._token_s = TOKEN_S
        self._block_s = layout.block_bytes * BYTE_S
        self._trip_s = 0.0

    def timed(self, plan: Plan, lasted: Many[float], trip_s: float) -> None:
        """Steps of this plan were run; ``trip_s``: what one takes longer that asks another
        instance."""
        self._trip_s = trip_s
        num_rows = plan.num_rows
        if num_rows < FEW or num_rows == len(plan.spans):  # it only decodes
            return
        for seconds in lasted:
            self._token_s += LEARNING * (seconds / num_rows - self._token_s)

    def compute_s(self, num_tokens: int) -> float:
        """Seconds to compute the keys of so many tokens."""
        return num_tokens * self._token_s

    def copied(self, seconds: float) -> None:
        """A block was, in so long."""
        self._block_s += LEARNING * (seconds - self._block_s)

    def is_worth(self, sequence: Sequence, num_blocks: int) -> bool:
        """Whether it pays to ask others for so many blocks of the sequence."""
        used_s = min(self._read_s(sequence), num_blocks * self._block_s)
        return ASK_S + used_s < self.compute_s(num_blocks * self._tokens)

    def are_copied(self, sequence: Sequence, num_blocks: int) -> bool:
        """Whether so many blocks that lie elsewhere are better copied than read there."""
        return num_blocks * self._block_s < self._read_s(sequence)

    def _read_s(self, sequence: Sequence) -> float:
        return max(1, sequence.most_steps) * self._trip_s
