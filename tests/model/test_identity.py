"""Protects models of one shape in one cluster: whose weights differ has another identity."""

import pytest
import torch
from tiny_models import make_tiny

from engine.model import checkpoint
from engine.model.identity import NUM_SAMPLES, identity


@pytest.mark.parametrize("library", ["lendkv", "transformers"])
def test_the_same_weights_anywhere_are_the_same_model(tmp_path, library):
    names = [
        checkpoint.load(str(make_tiny(tmp_path / where, seed=seed)), "float32", library=library)
        for where, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    same, again, other = (one.identity for one in names)
    assert same == again != other


def test_a_change_anywhere_in_a_matrix_is_seen():
    """A fine-tune changes whole matrices, or parts of those that were fused."""
    weights = {"qkv": torch.zeros(NUM_SAMPLES, 48), "norm": torch.ones(5)}
    before = identity("config", weights)
    assert before == identity("config", {"norm": torch.ones(5), "qkv": weights["qkv"].clone()})
    assert before != identity("another", weights)
    for part in weights["qkv"].split(16):
        part += 1
        assert identity("config", weights) != before
        part -= 1
    assert before != identity("config", weights | {"norm": torch.ones(5, dtype=torch.bfloat16)})
