"""Clusters of tiny models in this process, with a clock of their own; shared by tests/engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from engine.callbacks import Callback
from engine.config import load
from engine.core import Plan, SamplingParams
from engine.llm import LLM
from engine.loop import Loop
from engine.memory.base import MemoryPool
from engine.memory.books import BlockState
from engine.model import checkpoint as checkpoints
from engine.model.checkpoint import Checkpoint

BLOCK_TOKENS = 4


class TickingClock:
    """Time passes with every look at it, and in leaps when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def leap(self, seconds: float) -> None:
        self.now += seconds


def tiny_checkpoint(path: Path, dtype: str = "float32", **settings: Any) -> Checkpoint:
    """A random model with two layers and two query heads to a KV head; no cache is written to."""
    tiny_models.make_tiny(path, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        return checkpoints.load(str(path), dtype)


def cluster(
    checkpoint: Checkpoint,
    *overrides: str,
    dtype: str = "float32",
    kernel: str = "native",
    clock: TickingClock | None = None,
    callbacks: Sequence[Callback] = (),
    pool: type[MemoryPool] | None = None,
) -> LLM:
    config = load(
        None,
        [
            f"model.dtype={dtype}",
            f"pool.block_tokens={BLOCK_TOKENS}",
            "pool.num_blocks=64",
            "pool.lending.keep_blocks=0",
            "scheduler.max_step_tokens=16",
            f"pool.kernel={kernel}",
            f"attention.options.local={kernel}",
            "attention.options.way=query",
            *overrides,
        ],
    )
    return LLM(
        config,
        checkpoint=checkpoint,
        clock=clock or TickingClock(),
        callbacks=callbacks,
        pool=pool,
    )


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, ignore_eos=True)


def prompt(length: int, seed: int = 0) -> list[int]:
    random = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(0, 128, (length,), generator=random).tolist()


@dataclass(slots=True)
class Ran:
    """One step as the model ran it."""

    plan: Plan
    logits_NV: Tensor
    poisoned: frozenset[int]


def record(loop: Loop) -> list[Ran]:
    """Everything that the loop's model runs from now on."""
    steps: list[Ran] = []
    run = loop._runner.run

    def recorded(plan: Plan) -> tuple[Tensor, frozenset[int]]:
        logits_NV, poisoned = run(plan)
        steps.append(Ran(plan, logits_NV.clone(), poisoned))
        return logits_NV, poisoned

    loop._runner.run = recorded  # type: ignore[method-assign]
    return steps


def run_all(llm: LLM, each: Any = None) -> None:
    """Run until all is done; ``each()`` is called after every round."""
    for count, _ in enumerate(llm.run()):
        assert count < 4_000, "nothing ends"
        if each:
            each()


def assert_all_returned(llm: LLM, instances: Sequence[int] | None = None) -> None:
    """No block of these pools is lent, and steps have given back what they drew."""
    for _ in range(5):  # Releases and Gives are on their way
        for number in range(len(llm.loops)) if instances is None else instances:
            llm.loops[number].step()
        llm.network.pump()
    llm.check()
    for number in range(len(llm.pools)) if instances is None else instances:
        books, store = llm.rmanagers[number].books, llm.loops[number].scheduler.holdings.store
        assert books.count(BlockState.LENT) == 0, f"instance {number} has lent blocks left"
        assert books.count(BlockState.USED) == store.num_free, f"instance {number} leaks blocks"
        assert not len(llm.loops[number].scheduler.debts)
        assert not llm.loops[number]._backend._attached
