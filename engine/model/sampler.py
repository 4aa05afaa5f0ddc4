"""Chooses tokens from logits. A choice depends on logits, parameters and position only.

Random numbers are counter-based, keyed by seed and position: a step that is run again, on any
instance and in any batch, gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.core import SamplingParams

_MASK = (1 << 64) - 1


def sample(
    logits_TV: Tensor, params: Sequence[SamplingParams], positions: Sequence[int]
) -> list[int]:
    """One token for each row; ``positions`` are those of the new tokens in their sequences."""
    # Sync: logits on the host. The first of ties; a seventh of the time of torch's argmax.
    tokens: list[int] = logits_TV.cpu().numpy().argmax(-1).tolist()
    for row, (chosen, position) in enumerate(zip(params, positions, strict=True)):
        if chosen.temperature > 0:
            tokens[row] = _draw(logits_TV[row].cpu().numpy(), chosen, position)
    return tokens


def _draw(logits_V: NDArray[Any], params: SamplingParams, position: int) -> int:
    """Top-k of the scaled logits, then top-p of what is left, then the inverse of its CDF."""
    scaled_V = (logits_V.astype(np.float64) - logits_V.max()) / params.temperature
    ids = _top_k(scaled_V, params.top_k)
    weights = np.exp(scaled_V[ids])
    if params.top_p < 1:
        ids, weights = _top_p(ids, weights / weights.sum(), params.top_p)
    cdf = np.cumsum(weights)
    key = np.array([params.seed & _MASK, position], np.uint64)
    uniform = np.random.Generator(np.random.Philox(key=key)).random()
    return int(ids[np.searchsorted(cdf, uniform * cdf[-1], side="right")])


def _top_k(scaled_V: NDArray[np.float64], top_k: int) -> NDArray[np.int64]:
    """Ids of the ``top_k`` largest, ties to the lowest id; all ids if ``top_k`` is 0."""
    if not 0 < top_k < len(scaled_V):
        return np.arange(len(scaled_V))
    bound = np.partition(scaled_V, -top_k)[-top_k]
    above, equal = np.flatnonzero(scaled_V > bound), np.flatnonzero(scaled_V == bound)
    return np.sort(np.concatenate((above, equal[: top_k - len(above)])))


def _top_p(
    ids: NDArray[np.int64], weights: NDArray[np.float64], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The fewest most probable ids that reach ``top_p`` together."""
    # Ids below this bound sum to less than 1 - top_p: none is needed, and few are left to sort.
    likely = np.flatnonzero(weights >= (1 - top_p) / len(weights))
    likely = likely[np.argsort(-weights[likely], kind="stable")]
    kept = likely[: 1 + np.searchsorted(np.cumsum(weights[likely]), top_p)]
    return ids[kept], weights[kept]
