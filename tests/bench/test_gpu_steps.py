"""Whole steps of bench.gpu where there is no GPU: a tiny model, device cpu."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from bench import gpu_peer, gpu_steps
from bench.gpu_models import LLAMA_3_8B
from bench.gpu_steps import LLAMA, Instance, StepCase, StepRow, ask_peer, measure_steps, step_table
from bench.tiny import CONFIG
from engine.attention.triton.backend import why_not
from engine.core import Plan, Span
from engine.model.config import from_huggingface
from engine.model.layout import fused_weights

TINY = StepCase(
    name="tiny",
    settings={**LLAMA_3_8B, **CONFIG, "max_position_embeddings": 256},
    batch=2,
    keys=128,
    dtype="float32",
    tokens=8,
    local="native",
)
CPU = torch.device("cpu")


def test_what_a_step_reads_of_llama() -> None:
    config = from_huggingface(LLAMA_3_8B)
    read = [fused for fused in fused_weights(config) if fused.multiplies]
    assert sum(torch.Size(fused.shape).numel() for fused in read) == 7_504_658_432
    assert LLAMA.keys % LLAMA.tokens == 0
    model = TINY.model(CPU)
    layout = Instance(TINY, model).layout
    kv_bytes = 2 * 128 * 2 * 2 * 2 * 16 * 4
    assert TINY.bound_s(model, layout, 2.0) == (model.read_bytes + kv_bytes) / 2
    assert model.read_bytes == 4 * (128 * 64 + 2 * (64 * 128 + 64 * 64 + 3 * 96 * 64))


def test_a_step_is_the_same_with_half_of_each_context_lent() -> None:
    model = TINY.model(CPU)
    found = []
    for share in (0.0, 0.5):
        instance = Instance(TINY, model, share)
        fill_alike(instance)
        found.append(instance.step(TINY.keys - 1))
        instance.close()
    torch.testing.assert_close(*found)
    assert found[0].std() > 0.1


def fill_alike(instance: Instance) -> None:
    """Each block of both pools with what belongs to its place in a sequence."""
    for row, table in enumerate(instance.tables):
        for leaf, ref in enumerate(table):
            numbers = torch.Generator().manual_seed(100 * row + leaf)
            memory = instance.pools[ref.instance].bytes_PB
            assert memory is not None
            block = memory[ref.block].view(torch.float32)
            block.copy_(torch.randn(block.shape, generator=numbers))


def test_steps_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_steps, "ask_peer", lambda case, device: (0.5, "peer"))
    row = measure_steps(TINY, CPU, 1e9)
    assert row.case == "tiny, 2 x 128, float32"
    assert min(row.own_s, row.plain_s, row.lent_s, row.bound_s) > 0
    assert (row.peer_s, row.peer) == (0.5, "peer")
    wrong = iter([torch.ones(1), torch.zeros(1) + 0.9, torch.ones(1)])
    monkeypatch.setattr(Instance, "step_s", lambda instance: (1.0, next(wrong)))
    with pytest.raises(SystemExit, match="CUDA graphs are wrong: logits are off by 0.11"):
        measure_steps(TINY, CPU, 1e9)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_step_in_triton_is_that_of_the_native_kernels() -> None:
    case = replace(TINY, keys=24)
    model = case.model(CPU)
    found = []
    for local in ("native", "triton"):
        instance = Instance(replace(case, local=local), model)
        fill_alike(instance)
        found.append(instance.step(case.keys - 1))
        instance.close()
    torch.testing.assert_close(*found)


def test_transformers_has_the_same_weights() -> None:
    model = TINY.model(CPU)
    theirs, instance = model.in_transformers("sdpa"), Instance(TINY, model)
    ids = tuple(range(8))
    plan = Plan(1, ids, (Span(0, 0, len(ids), 0, instance.tables[0][:1], 1),), (0,))
    with torch.inference_mode():
        wanted = theirs(torch.tensor([ids])).logits[0, -1:]
    torch.testing.assert_close(instance.runner.run(plan)[0], wanted, atol=1e-4, rtol=1e-4)
    fused, shared = model.weights["layers.0.qkv"], theirs.model.layers[0].self_attn.k_proj.weight
    assert fused.data_ptr() < shared.data_ptr() < fused.data_ptr() + fused.nbytes


def test_transformers_is_timed_while_all_sequences_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peer, "NEW_TOKENS", 12)
    found = gpu_peer.measure(replace(TINY, keys=40), CPU)
    assert found["step_s"] > 0
    assert found["attention"] == "sdpa"
    stamps = [[0, 1, 2, 3, 4, 5.5, 7], [1.5, 2.5, 4.25, 6.25, 8], [0.5, 3, 6.5]]
    assert gpu_peer.steps_together(stamps) == [1, 1.75, 2]
    assert gpu_peer.steps_together([[0, 1], [2, 3]]) == []


def test_a_peer_that_does_not_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(TINY, batch=0)
    assert StepCase(**json.loads(json.dumps(asdict(case)))) == case
    monkeypatch.setattr(sys, "executable", "false")
    assert ask_peer(case, CPU) == (None, "transformers does not run it: status 1")

    def late(*args: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("", 0)

    monkeypatch.setattr(subprocess, "run", late)
    assert ask_peer(case, CPU) == (None, "transformers takes longer than 150 s")


def test_the_table_of_steps() -> None:
    known = StepRow("a", 0.01, 0.02, 0.03, 0.05, 0.04, "peer")
    _, first, second = step_table([known, replace(known, peer_s=None, peer="no")]).splitlines()
    assert first == (
        "a: 20.00 50% of the bound 10.00; without graphs 30.00; "
        "half lent on this GPU 50.00 2.50 x; 40.00 (peer)"
    )
    assert second.endswith("; (no)")
