"""Models of the transformers library over our attention equal the library's own forward pass."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model.dense_backend import DenseBackend
from model.plain import load_plain
from safetensors.torch import save_file
from tiny_models import LOGITS, make_tiny, reference_logits, reference_tokens

from engine.attention.reference import ReferenceBackend
from engine.core import BlockLayout, BlockRef, Plan, Span
from engine.errors import CheckpointError
from engine.memory.paged import PagedPool
from engine.model.checkpoint import Checkpoint
from engine.model.huggingface import SINGLE
from engine.model.llama import Llama
from engine.model.runner import ModelRunner
from engine.model.transformers_checkpoint import TransformersCheckpoint, describe

FULL = ["full_attention", "full_attention"]
BLOCK, BLOCKS_EACH = 4, 8


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products: threads that wait for one another cost four times the work itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "mistral": ("mistral", {}),
    "mistral-window-never-full": ("mistral", {"sliding_window": 512}),
    "gemma3": (
        "gemma3_text",
        {
            "layer_types": FULL,
            "sliding_window": 8,
            "query_pre_attn_scalar": 50,
            "final_logit_softcapping": 6.0,
            "tie_word_embeddings": True,
        },
    ),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {"pad_token_id": 0}),
    "granite": (
        "granite",
        {
            "attention_multiplier": 0.1,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
        },
    ),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None, "rotary_pct": 0.25}),
    "gpt2": (
        "gpt2",
        {"num_key_value_heads": None, "scale_attn_by_inverse_layer_idx": True},
    ),
}


def tiny(path: Path, name: str, **overrides: Any) -> Path:
    family, settings = FAMILIES[name]
    return make_tiny(path, family, **(settings | overrides))


def dense(num_layers: int = 2) -> Any:
    return DenseBackend(num_layers)


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(128, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class PackedRun:
    """Sequences in a real pool; each step packs rows of several."""

    def __init__(self, checkpoint: TransformersCheckpoint, num_sequences: int) -> None:
        shape = checkpoint.config.shape
        layout = BlockLayout(
            layers=shape.num_layers,
            kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            tokens=BLOCK,
            dtype="float32",
        )
        num_blocks = num_sequences * BLOCKS_EACH
        self.pool = PagedPool(PagedPool.Config(), layout=layout, num_blocks=num_blocks)
        backend = ReferenceBackend(
            ReferenceBackend.Config(), shape=shape, layout=layout, pool=self.pool
        )
        self.runner = ModelRunner(checkpoint.model, backend)
        self.tokens: list[list[int]] = [[] for _ in range(num_sequences)]

    def step(self, new: dict[int, list[int]]) -> torch.Tensor:
        """Append tokens to sequences; the logits of each one's last row."""
        ids: list[int] = []
        spans = []
        for sequence, rows in new.items():
            first = len(self.tokens[sequence])
            self.tokens[sequence] += rows
            count = -(-len(self.tokens[sequence]) // BLOCK)
            table = tuple(BlockRef(0, sequence * BLOCKS_EACH + i) for i in range(count))
            spans.append(Span(sequence, len(ids), len(rows), first, table, 0))
            ids += rows
        logits, poisoned = self.runner.run(
            Plan(0, tuple(ids), tuple(spans), tuple(range(len(spans))))
        )
        assert not poisoned
        return logits


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_sequences_equal_the_library(tmp_path: Path, name: str) -> None:
    path = tiny(tmp_path / "model", name)
    checkpoint = TransformersCheckpoint.load(str(path), "float32")
    assert checkpoint.config == describe(str(path))
    prompts = [prompt(9, 1), prompt(11, 2), prompt(3, 3)]
    wanted = [reference_tokens(path, ids, 5) for ids in prompts]
    run = PackedRun(checkpoint, 3)
    # Chunks of prompts beside one another, then decoding beside the last chunk, then three rows.
    run.step({0: prompts[0][:5], 1: prompts[1][:3]})
    last = dict(zip((0, 2), run.step({0: prompts[0][5:], 2: prompts[2]}), strict=True))
    found: list[list[int]] = [[], [], []]
    steps: list[dict[int, list[int]]] = [{1: prompts[1][3:]}] + [{}] * 4
    for extra in steps:
        new = {}
        for sequence, logits in last.items():
            reference = reference_logits(path, run.tokens[sequence])[-1]
            torch.testing.assert_close(logits, reference, **LOGITS)
            found[sequence].append(int(logits.argmax()))
            new[sequence] = found[sequence][-1:]
        logits_NV = run.step(new | extra)
        assert logits_NV.dtype == torch.float32
        last = dict(zip(new | extra, logits_NV, strict=True))
    assert found[0] == wanted[0]
    assert found[1] == wanted[1][:4]
    assert found[2] == wanted[2]
    run.pool.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_dtypes_give_unrounded_float32_logits(tmp_path: Path, dtype: str) -> None:
    path = tiny(tmp_path / "model", "granite")
    model = TransformersCheckpoint.load(str(path), dtype).model
    ids, rows = torch.tensor(prompt(10, 1)), torch.arange(10)
    logits = model.forward(ids, rows, rows, dense())
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.to(getattr(torch, dtype)).float())
    reference = reference_logits(path, ids.tolist())
    assert (logits - reference).abs().max() < 0.1 * reference.std()
    none = model.forward(ids, rows, rows[:0], dense())
    assert none.shape == (0, 128)


def test_two_models_in_two_threads_do_not_mix(tmp_path: Path) -> None:
    names = ["llama", "granite"]
    paths = [tiny(tmp_path / name, name) for name in names]
    models = [TransformersCheckpoint.load(str(path), "float32").model for path in paths]
    ids, rows = torch.tensor(prompt(12, 5)), torch.arange(12)
    both = threading.Barrier(2, timeout=60)
    found: list[torch.Tensor] = [torch.empty(0)] * 2

    class InStep(DenseBackend):
        def write(self, k_TKD: torch.Tensor, v_TKD: torch.Tensor, layer: int) -> None:
            both.wait()  # each is in the middle of its forward pass while the other is
            super().write(k_TKD, v_TKD, layer)

    def run(index: int) -> None:
        backend: Any = InStep(2)
        found[index] = models[index].forward(ids, rows, rows, backend)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path, logits in zip(paths, found, strict=True):
        torch.testing.assert_close(logits, reference_logits(path, ids.tolist()), **LOGITS)


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    """Module scope comes before the temporary cache: the user's own cache holds the model."""
    try:
        return load_plain("smollm2", "bfloat16")
    except CheckpointError as error:
        pytest.skip(str(error))


def unfused_folder(path: Path, checkpoint: Checkpoint) -> Path:
    """Our weights as the library would save them."""
    config, weights = checkpoint.config, checkpoint.weights
    names = {
        "input_layernorm.weight": "attn_norm",
        "self_attn.o_proj.weight": "out",
        "post_attention_layernorm.weight": "mlp_norm",
        "mlp.down_proj.weight": "down",
    }
    state = {"model.embed_tokens.weight": weights["embed"], "model.norm.weight": weights["norm"]}
    kv_size = config.num_kv_heads * config.head_dim
    for index in range(config.num_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        state |= {theirs + a: weights[ours + b] for a, b in names.items()}
        q, k, v = weights[ours + "qkv"].split([config.hidden_size, kv_size, kv_size])
        gate, up = weights[ours + "gate_up"].chunk(2)
        parts = {"self_attn.q": q, "self_attn.k": k, "self_attn.v": v, "mlp.gate": gate}
        state |= {f"{theirs}{a}_proj.weight": b for a, b in (parts | {"mlp.up": up}).items()}
    path.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path / SINGLE)
    library_config = transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        tie_word_embeddings=True,
    )
    library_config.save_pretrained(path)
    return path


def test_smollm2_equals_our_own_model(tmp_path: Path, smollm2: Checkpoint) -> None:
    assert smollm2.tokenizer is not None
    ids = torch.tensor(smollm2.tokenizer.encode("The capital of France is"))
    rows = torch.arange(len(ids))
    weights = {name: tensor.float() for name, tensor in smollm2.weights.items()}
    ours = Llama(smollm2.config, weights).forward(ids, rows, rows, dense(30))
    path = unfused_folder(tmp_path / "model", smollm2)
    checkpoint = TransformersCheckpoint.load(str(path), "float32")
    theirs = checkpoint.model.forward(ids, rows, rows, dense(30))
    assert checkpoint.config.shape == smollm2.config.shape
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-3)
    assert torch.equal(theirs.argmax(-1), ours.argmax(-1))
    assert smollm2.tokenizer.decode([int(theirs[-1].argmax())]) == " Paris"
