"""What requests ask to change of logits, against a plain calculation; nobody else sees it."""

import math
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core import SamplingParams
from engine.model.logit_edits import edited
from engine.model.sampler import Row, sample

VOCAB, EOS = 12, 3
token = st.integers(0, VOCAB - 1)
tokens = st.lists(token, max_size=8)
penalty = st.floats(-2, 2)
params = st.builds(
    SamplingParams,
    min_tokens=st.integers(0, 5),
    repetition_penalty=st.floats(0.01, 100),
    presence_penalty=penalty,
    frequency_penalty=penalty,
    top_p=st.floats(1e-300, 1),
    min_p=st.floats(0, 1),
    top_k=st.integers(0, 1 << 31),
    logit_bias=st.lists(st.tuples(token, st.floats(-100, 100)), max_size=3).map(tuple),
    stop_token_ids=st.lists(token, max_size=2).map(tuple),
    allowed_token_ids=st.lists(token, max_size=9).map(tuple),
    bad_words=st.lists(st.lists(token, min_size=1, max_size=2).map(tuple), max_size=3).map(tuple),
)


def plainly(logits, wanted, prompt, answer):
    """The same, one token at a time."""
    found = list(logits)

    def forbid(ids):
        if any(found[one] > -math.inf for one in set(range(VOCAB)) - set(ids)):
            for one in ids:
                found[one] = -math.inf

    for one in range(VOCAB):
        if wanted.allowed_token_ids and one not in wanted.allowed_token_ids:
            found[one] = -math.inf
    words = [word for word in wanted.bad_words if [*answer, word[-1]][-len(word) :] == list(word)]
    forbid({word[-1] for word in words})
    if len(answer) < wanted.min_tokens:
        forbid({EOS, *wanted.stop_token_ids})
    for one, bias in wanted.logit_bias:
        found[one] += bias
    for one in set(prompt + answer):
        factor = wanted.repetition_penalty
        found[one] = found[one] / factor if found[one] > 0 else found[one] * factor
    for one in set(answer):
        found[one] -= wanted.frequency_penalty * answer.count(one) + wanted.presence_penalty
    return found


@given(params, st.integers(0, 1 << 30), tokens.filter(bool), tokens)
def test_edits_are_those_of_a_plain_calculation(wanted, seed, prompt, answer):
    logits = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32) * 3
    before = logits.copy()
    found = edited(logits, wanted, prompt + answer, len(prompt), [EOS])
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_allclose(
        found, plainly(logits.tolist(), wanted, prompt, answer), rtol=1e-4, atol=1e-4
    )


@given(params, st.floats(0, 100), st.integers(0, 1 << 30), tokens.filter(bool), tokens)
def test_a_choice_depends_on_its_own_row_only(wanted, temperature, seed, prompt, answer):
    """Also where every token but the forbidden ones is gone."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, VOCAB)))
    row = Row(replace(wanted, temperature=temperature), prompt + answer, len(prompt))
    other = Row(SamplingParams(temperature=1.0, presence_penalty=1.0), [1, 2, 2], 1)
    alone = sample(logits[:1], [row], [EOS])
    assert sample(logits, [row, other, Row(SamplingParams(), [1], 1)], [EOS])[:1] == alone
    assert 0 <= alone[0] < VOCAB


def test_nothing_asked_is_nothing_copied():
    logits = np.zeros(VOCAB)
    assert edited(logits, SamplingParams(), [1, 2], 1, [EOS]) is logits
    assert edited(logits, SamplingParams(min_tokens=1), [1, 2], 1, [EOS]) is logits


def test_min_p_keeps_what_is_probable_enough():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def said(min_p):
        wanted = SamplingParams(temperature=1.0, min_p=min_p)
        return {sample(logits, [Row(wanted, [0] * n, 1)])[0] for n in range(1, 200)}

    assert said(0.05) == {0, 1, 2, 3}
    assert said(0.2) == {0, 1, 2}
    assert said(0.59) == {0, 1}
    assert said(1.0) == {0}
