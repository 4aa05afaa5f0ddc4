"""Greedy tokens of float32 models equal those of transformers, wherever the context lies.

The matrix: number of instances, placement and layout, way of using lent blocks, kernel. Several
requests run at once, some at the same instance, and lend each other memory.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from cluster_harness import assert_all_returned, cluster, greedy, prompt, run_all, tiny_checkpoint

from engine.attention.local import LocalBackend
from engine.attention.triton.backend import is_interpreted, why_not
from engine.core import Request
from engine.llm import LLM, Completion
from engine.model.checkpoint import Checkpoint

NUM_TOKENS = 7
PROMPTS = [prompt(length, length) for length in (87, 53, 66)]
WAYS = ("query", "mapped", "copy")
LAYOUTS = {
    "contiguous": ["placement.name=ledger", "pool.num_blocks=20"],
    "every_other": ["placement.name=placements_for_tests:EveryOther"],
    "all_sealed_remote": ["placement.name=placements_for_tests:AllSealedRemote"],
}
"""the contiguous run is what the ledger lends because the pool is too small"""


@lru_cache
def reference(path: Path, index: int) -> list[int]:
    return tiny_models.reference_tokens(path, PROMPTS[index], NUM_TOKENS)


def options_of_way(way: str) -> list[str]:
    return [
        f"attention.options.way={way}",
        *(["attention.options.staging_blocks=24"] if way == "copy" else []),
    ]


def complete(llm: LLM, path: Path, each: Any = None) -> list[Completion]:
    """All prompts at once, at the first, the middle and the last instance; all tokens right."""
    last = len(llm.loops) - 1
    completions = [
        llm.submit(
            Request(request_id=str(number), prompt_ids=tuple(ids), sampling=greedy(NUM_TOKENS)),
            instance,
        )
        for number, (ids, instance) in enumerate(zip(PROMPTS, (0, last // 2, last), strict=True))
    ]
    run_all(llm, each)
    for number, completion in enumerate(completions):
        assert not completion.error
        assert completion.token_ids == reference(path, number)
    assert_all_returned(llm)
    return completions


def ways_taken(completions: list[Completion]) -> set[str]:
    assert all(done.report for done in completions)
    return {way for done in completions for way, n in done.report.steps_by_way.items() if n}


@pytest.mark.parametrize("kernel", ["native", "numpy", "reference"])
@pytest.mark.parametrize("placement", ["local_only", "ledger"])
@pytest.mark.parametrize("instances", [1, 2, 3, 5, 8])
def test_tokens_are_right_where_nothing_is_lent(
    tiny: Checkpoint, tiny_path: Path, instances: int, placement: str, kernel: str
) -> None:
    llm = cluster(
        tiny,
        f"instances={instances}",
        f"placement.name={placement}",
        f"attention.options.local={kernel}",
    )
    completions = complete(llm, tiny_path)
    assert not ways_taken(completions)
    llm.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("instances", [2, 3, 5, 8])
def test_tokens_are_right_wherever_the_context_lies(
    tiny: Checkpoint, tiny_path: Path, instances: int, layout: str, way: str
) -> None:
    options = [*LAYOUTS[layout], *options_of_way(way)]
    if (layout, way) == ("contiguous", "copy"):
        options += ["pool.num_blocks=28", "attention.options.staging_blocks=8"]
    llm = cluster(tiny, f"instances={instances}", *options)
    completions = complete(llm, tiny_path)
    assert ways_taken(completions) <= {way, "query"}
    assert way in ways_taken(completions)
    report = completions[0].report
    assert report
    remote = [holder != 0 for holder in report.holders]
    assert any(remote)
    if layout == "every_other":
        assert remote[: len(PROMPTS[0]) // 4 : 2] == [True] * -(-(len(PROMPTS[0]) // 4) // 2)
        assert not all(remote[1::2])
    if layout == "all_sealed_remote":
        assert all(remote[: len(PROMPTS[0]) // 4])
    # Some may have come home again.
    assert report.moved_bytes >= sum(remote) * llm.pools[0].layout.block_bytes
    if way == "mapped":
        assert report.query_bytes == 0
    llm.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["every_other", "all_sealed_remote"])
@pytest.mark.parametrize(
    ("pool_kernel", "local"),
    [("numpy", "numpy"), ("numpy", "native"), ("native", "reference"), ("native", "sdpa")],
)
def test_tokens_are_right_for_any_pair_of_kernels(
    tiny: Checkpoint, tiny_path: Path, pool_kernel: str, local: str, layout: str, way: str
) -> None:
    llm = cluster(
        tiny,
        "instances=3",
        *LAYOUTS[layout],
        *options_of_way(way),
        f"pool.kernel={pool_kernel}",
        f"attention.options.local={local}",
    )
    assert way in ways_taken(complete(llm, tiny_path))
    llm.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_tokens_are_right_for_every_family(tmp_path: Path, family: str, way: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path, family=family)
    llm = cluster(checkpoint, "instances=3", *LAYOUTS["all_sealed_remote"], *options_of_way(way))
    complete(llm, tmp_path)
    llm.close()


def test_copies_are_fetched_once_and_where_there_is_no_room_the_query_travels(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    def run(staging_blocks: int) -> set[str]:
        llm = cluster(
            tiny,
            "instances=3",
            *LAYOUTS["all_sealed_remote"],
            "attention.options.way=copy",
            f"attention.options.staging_blocks={staging_blocks}",
        )
        taken = ways_taken(complete(llm, tiny_path))
        llm.close()
        return taken

    assert run(0) == {"query"}
    assert run(3) == {"copy", "query"}
    assert run(30) == {"copy"}


@pytest.mark.parametrize("max_body_bytes", [2000, 5000])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_right_when_messages_are_small(
    tiny: Checkpoint, tiny_path: Path, way: str, max_body_bytes: int
) -> None:
    """Blocks move in parts, and a step's queries go out in many slices."""
    llm = cluster(
        tiny,
        "instances=3",
        *LAYOUTS["every_other"],
        *options_of_way(way),
        "transport.name=loopback",
        f"transport.options.max_body_bytes={max_body_bytes}",
    )
    complete(llm, tiny_path)
    llm.close()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("way", ["query", "mapped"])
def test_tokens_are_right_where_the_owner_computes_in_triton(
    tiny: Checkpoint, tiny_path: Path, way: str
) -> None:
    """And the holder natively: what is stored is the same."""
    llm = cluster(
        tiny,
        "instances=2",
        *LAYOUTS["every_other"],
        *options_of_way(way),
        "attention.options.local=triton",
    )
    ids = prompt(18, 18)
    request = Request(request_id="0", prompt_ids=tuple(ids), sampling=greedy(3))
    completion = llm.submit(request, 0)
    run_all(llm)
    assert completion.token_ids == tiny_models.reference_tokens(tiny_path, ids, 3)
    assert ways_taken([completion]) == {way if is_interpreted() else "query"}
    llm.close()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_triton_sees_the_newest_key_in_each_step_of_one_table(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    """Decodes within a block go on with the tables of the step before, on the device too."""
    llm = cluster(tiny, "instances=1", "attention.options.local=triton", "pool.block_tokens=64")
    ids = prompt(18, 1)
    request = Request(request_id="0", prompt_ids=tuple(ids), sampling=greedy(6))
    completion = llm.submit(request, 0)
    run_all(llm)
    assert completion.token_ids == tiny_models.reference_tokens(tiny_path, ids, 6)
    llm.close()


def test_a_backend_that_reads_own_memory_only_sends_queries(
    tiny: Checkpoint, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalBackend, "maps", "")
    llm = cluster(tiny, "instances=2", *LAYOUTS["every_other"], *options_of_way("mapped"))
    assert ways_taken(complete(llm, tiny_path)) == {"query"}
    llm.close()
