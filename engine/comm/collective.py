"""Collective: what the tp ranks of one instance do together, all of them, in the same order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Collective(ABC):
    """Raises PeerLost where a rank is gone; then nothing of it can be used any more."""

    rank: int
    size: int

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """The sum of the ranks' ``x``, of one shape and dtype, on each of them with equal bits.

        Summed in float32 where ``x`` is less exact than that.
        """

    @abstractmethod
    def gather(self, x_NV: Tensor, widths: Sequence[int]) -> Tensor:
        """Rank 0 gets the ranks' columns side by side, ``[N, sum(widths)]``; others their own.

        ``widths`` are the numbers of columns by rank.
        """
