"""The forward pass equals transformers', for each family and kind of rotary scaling."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model.dense_run import DenseRun
from model.plain import load_plain
from tiny_models import FAMILIES, LOGITS, make_tiny, reference_logits, reference_tokens

from engine.model.checkpoint import load

PROMPT = [5, 99, 7, 0, 127, 64, 3, 3, 41, 18]
LONG = torch.randint(0, 128, (400,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_those_of_transformers(tmp_path: Path, family: str) -> None:
    path = make_tiny(tmp_path / "model", family)
    run = DenseRun(load(str(path), "float32"))
    assert run.greedy(PROMPT, 40) == reference_tokens(path, PROMPT, 40)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    path = make_tiny(tmp_path / "model", family, seed=3, tie_word_embeddings=tied)
    run = DenseRun(load(str(path), "float32"))
    logits = run.logits(LONG, list(range(len(LONG))))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, reference_logits(path, LONG), **LOGITS)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "beta_fast": 16.0,
            "truncate": False,
        },
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "attention_factor": 1.3,
        },
    ],
    ids=lambda rope: f"{rope['rope_type']}-{len(rope)}",
)
def test_rotary_scaling_equals_that_of_transformers(tmp_path: Path, rope: dict[str, Any]) -> None:
    parameters = {"rope_theta": 500.0} | rope
    path = make_tiny(tmp_path / "model", rope_parameters=parameters)
    logits = DenseRun(load(str(path), "float32")).logits(LONG, list(range(len(LONG))))
    torch.testing.assert_close(logits, reference_logits(path, LONG), **LOGITS)


def test_chunks_of_a_prompt_give_the_logits_of_the_whole(tmp_path: Path) -> None:
    checkpoint = load(str(make_tiny(tmp_path / "model", head_dim=32)), "float32")
    whole = DenseRun(checkpoint).logits(LONG, [399, 120])
    run = DenseRun(checkpoint)
    assert run.logits(LONG[:100], []).shape == (0, 128)
    middle = run.logits(LONG[100:121], [20])
    last = run.logits(LONG[121:], [278])
    torch.testing.assert_close(torch.cat((last, middle)), whole, **LOGITS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_dtypes_give_unrounded_float32_logits(tmp_path: Path, dtype: str) -> None:
    path = make_tiny(tmp_path / "model")
    logits = DenseRun(load_plain(str(path), dtype)).logits(PROMPT, list(range(len(PROMPT))))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.to(getattr(torch, dtype)).float())
    reference = reference_logits(path, PROMPT)
    assert (logits - reference).abs().max() < 0.1 * reference.std()
