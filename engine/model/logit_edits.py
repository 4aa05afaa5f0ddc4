"""What a request asks to change of its logits before a token is chosen: masks, bias, penalties."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core import SamplingParams

Logits = NDArray[Any]


def edited(
    logits_V: Logits,
    params: SamplingParams,
    token_ids: Sequence[int],
    num_prompt: int,
    eos_ids: Collection[int],
) -> Logits:
    """The same array where nothing is asked, else a changed copy of it.

    ``token_ids`` are those of the prompt and, behind ``num_prompt``, of the answer. As in vLLM:
    masks, bias, repetition, then the answer's penalties; temperature comes later.
    """
    is_early = len(token_ids) - num_prompt < params.min_tokens
    if not (is_early or _changes(params)):
        return logits_V
    logits_V = logits_V.copy()
    output_ids = token_ids[num_prompt:]
    if params.allowed_token_ids:
        others = np.ones(len(logits_V), bool)
        others[list(params.allowed_token_ids)] = False
        _forbid(logits_V, np.flatnonzero(others))
    _forbid(logits_V, [word[-1] for word in params.bad_words if _would_end(output_ids, word)])
    if is_early:
        _forbid(logits_V, [*eos_ids, *params.stop_token_ids])
    for token, bias in params.logit_bias:
        logits_V[token] += bias
    if params.repetition_penalty != 1:
        seen = np.unique(np.asarray(token_ids))
        values = logits_V[seen]
        factor = params.repetition_penalty
        logits_V[seen] = np.where(values > 0, values / factor, values * factor)
    if (params.frequency_penalty or params.presence_penalty) and len(output_ids):
        said, counts = np.unique(np.asarray(output_ids), return_counts=True)
        logits_V[said] -= params.frequency_penalty * counts + params.presence_penalty
    return logits_V


def _changes(params: SamplingParams) -> bool:
    """Whether it asks for any change, whatever the tokens are."""
    return bool(
        params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.allowed_token_ids
        or params.bad_words
    )


def _forbid(logits_V: Logits, ids: Sequence[int] | NDArray[np.int64]) -> None:
    """Unless nothing would be left to choose."""
    if not len(ids):
        return
    kept = logits_V[ids]
    logits_V[ids] = -np.inf
    if logits_V.max() == -np.inf:
        logits_V[ids] = kept


def _would_end(output_ids: Sequence[int], word: Sequence[int]) -> bool:
    """All of the word but its last token was said just now."""
    begun = list(word[:-1])
    return not begun or list(output_ids[-len(begun) :]) == begun
