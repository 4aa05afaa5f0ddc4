"""Scores: how likely the model found tokens, from its raw logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core import Score
from engine.model.sampler import top_ids


def score(logits_V: NDArray[Any], token_id: int, num_top: int) -> Score:
    """Of one token behind a row with these float32 logits, with the ``num_top`` likeliest."""
    highest = logits_V.max()
    total = highest + np.log(np.exp(logits_V - highest).sum())
    own = logits_V[token_id]
    rank = 1 + int(np.count_nonzero(logits_V > own))
    if num_top == 1:  # no need to sort for what lm-eval asks of each row
        ids = logits_V.argmax(-1, keepdims=True)
    else:
        ids = top_ids(logits_V, num_top) if num_top else np.arange(0)
        ids = ids[np.argsort(-logits_V[ids], kind="stable")]
    top = zip(ids.tolist(), (logits_V[ids] - total).tolist(), strict=True)
    return Score(float(own - total), rank, tuple(top))
