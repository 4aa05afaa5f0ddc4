"""Decodes that are recorded and replayed, where there is no GPU: what is recorded runs again."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny_models
import torch
from cluster_harness import cluster, greedy, prompt, record, run_all

from engine.attention.triton.backend import why_not
from engine.core import Request
from engine.inprocess import Completion
from engine.llm import LLM
from engine.model.checkpoint import Checkpoint
from engine.model.graphed import GraphedLlama

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
Run = Callable[[], None]
PROMPTS = [prompt(length, length) for length in (9, 14, 6)]
NUM_TOKENS = 4


class Again:
    """A recorder of the CPU; counts what was replayed, by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, run: Run) -> Run:
        name = (run.func if isinstance(run, partial) else run).__name__

        def again() -> None:
            self.counts[name] += 1
            run()

        return again


def graphed(llm: LLM, recorder: Callable[[Run], Run]) -> None:
    for loop in llm.loops:
        loop._runner._model = GraphedLlama(loop._runner._model, recorder)


def complete(llm: LLM) -> list[list[int]]:
    done = [
        llm.submit(Request(request_id=str(n), prompt_ids=tuple(ids), sampling=greedy(NUM_TOKENS)))
        for n, ids in enumerate(PROMPTS)
    ]
    run_all(llm)
    llm.close()
    return [completion.token_ids for completion in done]


def wanted(path: Path) -> list[list[int]]:
    return [tiny_models.reference_tokens(path, ids, NUM_TOKENS) for ids in PROMPTS]


def test_tokens_are_right_and_a_step_is_one_graph(tiny: Checkpoint, tiny_path: Path) -> None:
    llm, again = cluster(tiny, "pool.name=device", "attention.options.local=triton"), Again()
    graphed(llm, again)
    assert complete(llm) == wanted(tiny_path)
    assert set(again.counts) == {"_in_turn"}


def test_tokens_are_right_and_steps_that_ask_are_several(tiny: Checkpoint, tiny_path: Path) -> None:
    llm, again = _lending(tiny), Again()
    graphed(llm, again)
    done = _submit_one(llm)
    run_all(llm)
    assert done.token_ids == tiny_models.reference_tokens(tiny_path, PROMPTS[1], 8)
    counts, layers = again.counts, tiny.config.num_layers
    assert counts["_attend"] == counts["_go_on"] == layers * counts["_embed"] > 0
    llm.close()


def test_logits_have_the_bits_of_steps_that_are_not_replayed(tiny: Checkpoint) -> None:
    steady = replace(tiny, steady=True)
    found = []
    for recorder in (None, Again()):
        llm = cluster(steady, "pool.name=device", "attention.options.local=triton")
        if recorder:
            graphed(llm, recorder)
        steps = record(llm.loops[0])
        complete(llm)
        found.append([step.logits_NV for step in steps])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_holder_that_freezes_poisons_and_the_step_is_done_again(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    llm = _lending(tiny, "attention.options.wait_s=0.2")
    graphed(llm, Again())
    steps = record(llm.loops[0])
    done = _submit_one(llm)
    rounds = llm.run()
    while len(done.token_ids) < 4 or llm.loops[0]._mover.busy:
        next(rounds)
    llm.network.freeze(llm.addresses[1])
    llm.loops[0].scheduler.admission._placement.config.instances[:] = [0]
    for count, _ in enumerate(rounds):
        assert count < 4_000, "nothing ends"
    assert done.token_ids == tiny_models.reference_tokens(tiny_path, PROMPTS[1], 8)
    (poisoned,) = [step for step in steps if step.poisoned]
    assert not poisoned.logits_NV.isnan().any()
    llm.close()


def test_where_nothing_can_be_recorded_steps_go_on(
    tiny: Checkpoint, tiny_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(run: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    llm = cluster(tiny, "pool.name=device", "attention.options.local=triton")
    graphed(llm, refuse)
    with caplog.at_level(logging.WARNING):
        assert complete(llm) == wanted(tiny_path)
    (told,) = [entry.getMessage() for entry in caplog.records if "CUDA graphs" in entry.message]
    assert told.endswith("slower: operation not permitted when stream is capturing")


def test_other_backends_run_as_before(tiny: Checkpoint, tiny_path: Path) -> None:
    llm, again = cluster(tiny), Again()
    graphed(llm, again)
    assert complete(llm) == wanted(tiny_path)
    assert not again.counts


def _lending(tiny: Checkpoint, *overrides: str) -> LLM:
    """All that is sealed lies with instance 1."""
    return cluster(
        tiny,
        *overrides,
        "instances=2",
        "placement.name=placements_for_tests:Drawn",
        "placement.options.instances=[1]",
        "scheduler.lease_s=3000",
        "pool.lending.max_lease_s=3000",
        "pool.name=device",
        "attention.options.local=triton",
    )


def _submit_one(llm: LLM) -> Completion:
    ids = tuple(PROMPTS[1])
    return llm.submit(Request(request_id="0", prompt_ids=ids, sampling=greedy(8)))
