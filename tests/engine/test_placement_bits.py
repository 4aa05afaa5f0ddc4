"""Logits are bit-identical for any placement: kernels sum by leaf, and leaves meet in one tree.

The run to compare with is one instance that holds everything, with the same chunks. A neighbour's
request runs beside it, lends and borrows, and must not be felt.
"""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from cluster_harness import assert_all_returned, cluster, greedy, prompt, record, run_all
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.core import Request
from engine.errors import ConfigError, PeerLost
from engine.model.checkpoint import Checkpoint

NUM_TOKENS = 5


@dataclass(frozen=True)
class Schedule:
    """What must be the same in both runs."""

    kernel: str
    dtype: str
    length: int
    chunk: int


def logits_of(
    checkpoint: Checkpoint, schedule: Schedule, *options: str, neighbour: int = 0
) -> tuple[list[Tensor], list[int], tuple[int, ...]]:
    """Logits of each step, the tokens, and who held the context."""
    llm = cluster(
        checkpoint,
        *options,
        f"scheduler.max_step_tokens={schedule.chunk}",
        dtype=schedule.dtype,
        kernel=schedule.kernel,
    )
    steps = record(llm.loops[0])
    request = Request(
        request_id="measured",
        prompt_ids=tuple(prompt(schedule.length, 7)),
        sampling=greedy(NUM_TOKENS),
    )
    completion = llm.submit(request)
    if neighbour:
        beside = Request(
            request_id="beside", prompt_ids=tuple(prompt(neighbour)), sampling=greedy(9)
        )
        llm.submit(beside, len(llm.loops) - 1)
    run_all(llm)
    assert not completion.error
    assert completion.report
    assert not any(step.poisoned for step in steps)
    assert_all_returned(llm)
    llm.close()
    holders = tuple(completion.report.holders)
    return [step.logits_NV for step in steps], completion.token_ids, holders


@cache
def _cached(schedule: Schedule) -> dict[str, tuple[list[Tensor], list[int]]]:
    return {}


def local_logits(checkpoint: Checkpoint, schedule: Schedule) -> tuple[list[Tensor], list[int]]:
    known = _cached(schedule)
    if not known:
        logits, tokens, holders = logits_of(checkpoint, schedule, "instances=1")
        assert set(holders) == {0}
        known["local"] = logits, tokens
    return known["local"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", ["native", "numpy"])
@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_logits_have_the_same_bits_for_any_placement(
    tiny: Checkpoint, tiny_bfloat16: Checkpoint, kernel: str, dtype: str, data: st.DataObject
) -> None:
    checkpoint = tiny if dtype == "float32" else tiny_bfloat16
    chunk = data.draw(st.sampled_from([16, 64, 7, 33]), label="rows in a step")
    schedule = Schedule(kernel, dtype, data.draw(st.sampled_from([61, 37, 90]), "prompt"), chunk)
    want_logits, want_tokens = local_logits(checkpoint, schedule)

    instances = data.draw(st.integers(1, 5), label="instances")
    leaves = schedule.length // 4 + 1
    holder = st.integers(0, instances - 1)
    holders = data.draw(st.lists(holder, min_size=leaves, max_size=leaves), label="holders")
    way = data.draw(st.sampled_from(["query", "mapped", "copy"]), label="way")
    logits, tokens, held = logits_of(
        checkpoint,
        schedule,
        f"instances={instances}",
        "placement.name=placements_for_tests:Drawn",
        f"placement.options.instances={holders}",
        f"attention.options.way={way}",
        "attention.options.bits=placement",
        "attention.options.staging_blocks=" + str(data.draw(st.sampled_from([0, 4, 30]))),
        neighbour=data.draw(st.sampled_from([0, 40]), label="neighbour") * (instances > 1),
    )
    own_room = leaves - (chunk + 3) // 4 - 2
    if own_room > sum(i == 0 for i in holders):
        assert held[: leaves - 1] == tuple(holders[: leaves - 1])
    assert tokens == want_tokens
    assert len(logits) == len(want_logits)
    for got, want in zip(logits, want_logits, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("way", ["query", "mapped"])
def test_every_block_of_a_long_context_on_another_instance_than_the_one_before(
    tiny: Checkpoint, way: str
) -> None:
    schedule = Schedule("native", "float32", 200, 64)
    want_logits, _ = local_logits(tiny, schedule)
    logits, _, held = logits_of(
        tiny,
        schedule,
        "instances=5",
        "placement.name=placements_for_tests:Drawn",
        "placement.options.instances=[1,2,3,4]",
        f"attention.options.way={way}",
        "attention.options.bits=placement",
        "pool.num_blocks=80",
    )
    assert held[:48] == (1, 2, 3, 4) * 12
    assert all(torch.equal(a, b) for a, b in zip(logits, want_logits, strict=True))


def test_equal_bits_are_refused_where_kernels_differ(tiny: Checkpoint) -> None:
    options = ["instances=2", "attention.options.bits=placement"]
    llm = cluster(tiny, *options, "pool.kernel=numpy")
    llm.submit(Request(request_id="0", prompt_ids=tuple(prompt(9)), sampling=greedy(2)))
    with pytest.raises(PeerLost, match=r"computes with numpy.*this one with .*bits=any"):
        run_all(llm)
    llm.close()


def test_equal_bits_are_refused_for_a_backend_that_cannot_give_them(tiny: Checkpoint) -> None:
    options = ["attention.options.bits=placement", "attention.options.local=sdpa"]
    with pytest.raises(ConfigError, match=r"bits=placement.*sdpa"):
        cluster(tiny, *options)
