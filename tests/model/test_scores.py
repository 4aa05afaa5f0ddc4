"""Scores are torch's log-softmax, with ranks and the likeliest tokens."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.model.scores import score


@given(st.integers(2, 60), st.integers(0, 25), st.booleans(), st.data())
def test_scores_are_those_of_log_softmax(vocab, num_top, has_ties, data):
    numbers = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    logits = numbers.integers(0, 4, vocab) if has_ties else numbers.normal(size=vocab) * 9
    logits = logits.astype(np.float32)
    token = data.draw(st.integers(0, vocab - 1))
    wanted = torch.log_softmax(torch.from_numpy(logits).double(), -1).tolist()
    found = score(logits, token, num_top)
    assert abs(found.logprob - wanted[token]) < 1e-5
    assert found.rank == 1 + sum(other > logits[token] for other in logits)
    order = sorted(range(vocab), key=lambda one: (-logits[one], one))[:num_top]
    assert [one for one, _ in found.top] == order
    for one, logprob in found.top:
        assert abs(logprob - wanted[one]) < 1e-5
        assert one != token or logprob == found.logprob, "lm-eval compares them exactly"
