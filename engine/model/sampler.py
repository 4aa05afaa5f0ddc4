"""Chooses tokens from logits. A choice depends on them and on the sequence's own tokens only.

Random numbers are counter-based, keyed by seed and position: a step that is run again, on any
instance and in any batch, gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.core import SamplingParams
from engine.model.logit_edits import edited

LOWEST_TEMPERATURE = 1e-5
"""below it only the likeliest would ever be drawn"""
_MASK = (1 << 64) - 1


class Row(NamedTuple):
    """Whose next token is chosen."""

    params: SamplingParams
    token_ids: Sequence[int]
    """the prompt's and the answer's so far"""
    num_prompt: int
    allowed_V: NDArray[np.bool_] | None = None
    """tokens that may be chosen at all; None: every one"""


def sample(logits_TV: Tensor, rows: Sequence[Row], eos_ids: Collection[int] = ()) -> list[int]:
    """One token for each row; ``eos_ids`` end an answer."""
    # Sync: logits on the host. The first of ties; a seventh of the time of torch's argmax.
    logits = logits_TV.cpu().numpy()
    tokens: list[int] = logits.argmax(-1).tolist()
    for index, (raw_V, row) in enumerate(zip(logits, rows, strict=True)):
        logits_V = raw_V if row.allowed_V is None else np.where(row.allowed_V, raw_V, -np.inf)
        logits_V = edited(logits_V, row.params, row.token_ids, row.num_prompt, eos_ids)
        if row.params.temperature >= LOWEST_TEMPERATURE:
            tokens[index] = _draw(logits_V, row.params, len(row.token_ids))
        elif logits_V is not raw_V:
            tokens[index] = int(logits_V.argmax())
    return tokens


def _draw(logits_V: NDArray[Any], params: SamplingParams, position: int) -> int:
    """Top-k and min-p of the scaled logits, then top-p of what is left, then its CDF's inverse."""
    ids: NDArray[np.int64] | None = None  # all; to pick all of 50,000 takes longer than to draw
    scaled = (logits_V - logits_V.max()) / params.temperature
    if 0 < params.top_k < len(scaled):
        ids = top_ids(scaled, params.top_k)
        scaled = scaled[ids]
    if params.min_p > 0:
        kept = np.flatnonzero(scaled >= np.log(params.min_p))
        ids, scaled = kept if ids is None else ids[kept], scaled[kept]
    weights = np.exp(scaled)
    if params.top_p < 1:
        kept = _top_p(weights / weights.sum(dtype=np.float64), params.top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    cdf = np.cumsum(weights, dtype=np.float64)
    key = np.array([params.seed & _MASK, position], np.uint64)
    uniform = np.random.Generator(np.random.Philox(key=key)).random()
    at = int(np.searchsorted(cdf, uniform * cdf[-1], side="right"))
    return at if ids is None else int(ids[at])


def top_ids(values_V: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Ids of the ``count`` largest, ascending; the lowest ids of ties. All ids if it is so many."""
    if count >= len(values_V):
        return np.arange(len(values_V))
    bound = np.partition(values_V, -count)[-count]
    above, equal = np.flatnonzero(values_V > bound), np.flatnonzero(values_V == bound)
    return np.sort(np.concatenate((above, equal[: count - len(above)])))


def _top_p(weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indexes of the fewest most probable that reach ``top_p`` together."""
    # Those below this bound sum to less than 1 - top_p: none is needed, and few are left to sort.
    likely = np.flatnonzero(weights >= (1 - top_p) / len(weights))
    likely = likely[np.argsort(-weights[likely], kind="stable")]
    return likely[: 1 + np.searchsorted(np.cumsum(weights[likely]), top_p)]
