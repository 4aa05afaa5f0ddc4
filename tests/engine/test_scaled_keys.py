"""Keys and values of 8 bits (``pool.dtype``): the same tokens wherever blocks lie and whoever
computes, and pools that store otherwise do not lend to each other."""

import pytest
import torch
from cluster_harness import assert_all_returned, cluster, greedy, prompt, record, run_all

from engine.attention.triton.backend import why_not
from engine.build import layout_of
from engine.config import load
from engine.core import ModelShape, Request
from engine.model.checkpoint import Checkpoint

REMOTE = ["instances=3", "placement.name=placements_for_tests:AllSealedRemote"]
SCALED = pytest.mark.parametrize("dtype", ["int8", "fp8"])


def logits_of(checkpoint: Checkpoint, *options: str, dtype: str, tokens: int = 6) -> torch.Tensor:
    """Of each token of the answer, [N, V]; they are of what was chosen before them, too."""
    llm = cluster(checkpoint, *options, dtype=dtype)
    steps = record(llm.loops[0])
    ids = tuple(prompt(37, 5))
    completion = llm.submit(Request(request_id="0", prompt_ids=ids, sampling=greedy(tokens)), 0)
    run_all(llm)
    assert not completion.error
    assert len(completion.token_ids) == tokens
    assert_all_returned(llm)
    llm.close()
    return torch.cat([step.logits_NV for step in steps])


@SCALED
@pytest.mark.parametrize("way", ["query", "mapped", "copy"])
@pytest.mark.parametrize("of_model", ["float32", "bfloat16"])
def test_lent_blocks_give_the_bits_of_own_ones(
    tiny: Checkpoint, tiny_bfloat16: Checkpoint, dtype: str, way: str, of_model: str
) -> None:
    checkpoint = tiny if of_model == "float32" else tiny_bfloat16
    how = [f"pool.dtype={dtype}", f"attention.options.way={way}"]
    how += ["attention.options.staging_blocks=24"] if way == "copy" else []
    alone = logits_of(checkpoint, *how, dtype=of_model)
    assert torch.equal(logits_of(checkpoint, *how, *REMOTE, dtype=of_model), alone)


@SCALED
def test_logits_are_near_those_of_plain_keys(tiny: Checkpoint, dtype: str) -> None:
    plain = logits_of(tiny, dtype="float32", tokens=1)
    scaled = logits_of(tiny, f"pool.dtype={dtype}", dtype="float32", tokens=1)
    wrong = (scaled - plain).norm() / plain.norm()
    assert 0 < wrong < (0.03 if dtype == "int8" else 0.3)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@SCALED
@pytest.mark.parametrize("way", ["query", "mapped"])
def test_blocks_written_by_triton_are_read_natively_and_the_other_way_round(
    tiny: Checkpoint, dtype: str, way: str
) -> None:
    """The owner computes as on a GPU, the holders on the CPU."""
    how = [f"pool.dtype={dtype}", f"attention.options.way={way}"]
    native = logits_of(tiny, *how, dtype="float32", tokens=2)
    triton = [*how, *REMOTE, "attention.options.local=triton"]
    got = logits_of(tiny, *triton, dtype="float32", tokens=2)
    torch.testing.assert_close(got, native, atol=1e-4, rtol=1e-4)


def test_pools_that_store_otherwise_do_not_lend() -> None:
    shape = ModelShape(
        num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2, vocab_size=1, max_positions=1
    )
    ways = [
        [],
        ["model.dtype=float32"],
        ["pool.dtype=int8"],
        ["pool.dtype=fp8"],
        ["pool.dtype=int8", "model.dtype=float32"],
    ]
    layouts = [layout_of(load(None, way), shape) for way in ways]
    assert len({layout.fingerprint for layout in layouts}) == len(layouts)
