"""Tensor parallelism and lending: each rank asks holders for its own heads, all agree on faults."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cluster_harness import prompt, tiny_checkpoint
from native_step import LENGTHS, decodes
from ranked_step import RankedStep
from tiny_models import LOGITS, reference_logits

from engine import devices
from engine.core import BlockRef, Plan, Span
from engine.errors import WontFit
from engine.model.checkpoint import Checkpoint
from engine.model.runner import ModelRunner

LEND_TO_BOTH = ({0: 1, 1: 1, 2: 2, 4: 1, 5: 2}, {1: 2, 2: 2})
LENT = {1: ({}, {}), 2: ({0: 1, 1: 1, 4: 1}, {1: 1}), 3: LEND_TO_BOTH}
"""leaves of two sequences and who holds them, by the number of instances"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models by number of KV heads, two query heads to each."""
    return {n: tmp_path_factory.mktemp(f"{n}_kv_heads") for n in (2, 4)}


@pytest.fixture(scope="module")
def models(paths: dict[int, Path]) -> dict[int, Checkpoint]:
    return {
        n: tiny_checkpoint(path, num_attention_heads=2 * n, num_key_value_heads=n)
        for n, path in paths.items()
    }


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize(
    ("kv_heads", "size"),
    [(2, 2), (2, 3), (4, 3)],
    ids=["a KV head each", "two share one", "uneven"],
)
def test_where_leaves_lie_changes_no_bit(
    paths: dict[int, Path],
    models: dict[int, Checkpoint],
    kv_heads: int,
    size: int,
    transport: str,
) -> None:
    step = RankedStep(models[kv_heads], size, transport=transport, wait_s=20.0)
    step.prefill()
    truth = [step.run(decodes(number))[0] for number in range(3)]
    prompts = [prompt(200, n)[: LENGTHS[n] + 3] for n in range(2)]
    wanted = [reference_logits(paths[kv_heads], ids)[-1] for ids in prompts]
    torch.testing.assert_close(truth[2], torch.stack(wanted), **LOGITS)
    step.lend(LEND_TO_BOTH)
    for number in range(3):
        logits, poisoned = step.run(decodes(number))
        assert torch.equal(logits, truth[number])
        assert poisoned == [frozenset()] * size
    assert all(backend.travels.num_block_reads == 3 * 7 for backend in step.backends)
    step.close()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("instances", [1, 2, 3])
def test_any_ranks_over_any_instances_give_the_tokens_of_transformers(
    paths: dict[int, Path], models: dict[int, Checkpoint], instances: int, size: int
) -> None:
    step = RankedStep(models[2], size, wait_s=20.0)
    step.prefill()
    step.lend(LENT[instances])
    for number in range(3):
        logits, poisoned = step.run(decodes(number))
        assert poisoned == [frozenset()] * size
        seen = [prompt(200, n)[: LENGTHS[n] + number + 1] for n in range(2)]
        tokens = [int(reference_logits(paths[2], ids)[-1].argmax()) for ids in seen]
        assert logits.argmax(-1).tolist() == tokens
    lent = sum(map(len, LENT[instances]))
    assert all(backend.travels.num_block_reads == 3 * lent for backend in step.backends)
    step.close()


def test_mapped_memory_is_read_at_the_ranks_heads(models: dict[int, Checkpoint]) -> None:
    step = RankedStep(models[4], 3, way="mapped")
    step.prefill()
    truth, _ = step.run(decodes(0))
    step.lend(LEND_TO_BOTH)
    logits, poisoned = step.run(decodes(0))
    assert torch.equal(logits, truth)
    assert poisoned == [frozenset()] * 3
    assert all(len(backend._mapped.refs) == 2 for backend in step.backends)
    step.close()


def test_what_one_rank_misses_is_poisoned_for_all(models: dict[int, Checkpoint]) -> None:
    step = RankedStep(models[2], 2, wait_s=20.0)
    step.prefill()
    truth, _ = step.run(decodes(0))
    step.lend(({0: 1, 3: 1}, {1: 2}))
    step.every_lenders[1].drop(1, "its channel is cut")  # rank 0's stands
    logits, poisoned = step.run(decodes(0))
    assert poisoned == [frozenset({0})] * 2
    assert torch.equal(logits[1], truth[1])
    assert logits.isfinite().all()
    step.close()


def test_what_does_not_fit_at_one_rank_is_run_by_none(models: dict[int, Checkpoint]) -> None:
    step = RankedStep(models[2], 2)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))

    class Narrow:
        max_body_bytes = 64

        def __getattr__(self, name: str) -> object:
            return getattr(step.every_lenders[1], name)

    step.backends[1]._lenders = Narrow()  # type: ignore[assignment]
    with pytest.raises(WontFit) as refused:
        step.run(decodes(0))
    assert refused.value.sequence == 0
    step.close()


@pytest.mark.parametrize(("rank", "fetched"), [(0, (1, 7)), (1, (0, 7))])
def test_on_gpus_only_rank_0_has_logits_on_the_host(
    monkeypatch: pytest.MonkeyPatch, rank: int, fetched: tuple[int, int]
) -> None:
    """All of them wait for their GPU: then the step's blocks may be others'."""
    crossed = []
    monkeypatch.setattr(devices, "sent", lambda table, to: table.to(to))
    monkeypatch.setattr(devices, "fetched", lambda x: crossed.append(tuple(x.shape)) or x)
    model = SimpleNamespace(forward=lambda *_: torch.empty(1, 7, device="meta"))
    backend = SimpleNamespace(begin=lambda plan: None, end=frozenset)
    runner = ModelRunner(model, backend, SimpleNamespace(rank=rank, size=2), device="meta")
    runner.run(Plan(1, (5,), (Span(0, 0, 1, 0, (BlockRef(0, 0),), 1),), (0,)))
    assert crossed == [fetched]
