"""Instances whose keys lie in a device's memory; the device is the CPU where there is no GPU.

What is tested is that no key is read or written but through the device's own kernels and explicit
copies: tokens equal those of transformers, whoever lends to whom.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
from cluster_harness import assert_all_returned, cluster, greedy, prompt, run_all
from test_tokens_equal import LAYOUTS, complete, options_of_way, ways_taken

from engine.attention.triton.backend import why_not
from engine.core import Request
from engine.memory.base import MemoryPool
from engine.memory.books import BlockState
from engine.memory.device import DevicePool
from engine.memory.reference import ReferencePool
from engine.model.checkpoint import Checkpoint

ON_DEVICE = ["pool.name=device", "pool.options.device=cpu"]


@pytest.mark.parametrize("kernel", ["native", "reference", "sdpa"])
@pytest.mark.parametrize("way", ["query", "mapped", "copy"])
def test_tokens_are_right_where_devices_lend_each_other(
    tiny: Checkpoint, tiny_path: Path, way: str, kernel: str
) -> None:
    """Nobody maps a device's memory unless it is told to be mapped: the query travels."""
    llm = cluster(
        tiny,
        "instances=3",
        *LAYOUTS["every_other"],
        *options_of_way(way),
        *ON_DEVICE,
        f"attention.options.local={kernel}",
    )
    assert {pool.region for pool in llm.pools} == {None}
    assert ways_taken(complete(llm, tiny_path)) == {"copy" if way == "copy" else "query"}
    llm.close()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_tokens_are_right_where_owner_and_holder_compute_in_triton(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    llm = cluster(
        tiny,
        "instances=2",
        *LAYOUTS["every_other"],
        "pool.name=device",
        "attention.options.local=triton",
    )
    ids = prompt(18, 18)
    completion = llm.submit(
        Request(request_id="0", prompt_ids=tuple(ids), sampling=greedy(3)), instance=0
    )
    run_all(llm)
    assert completion.token_ids == tiny_models.reference_tokens(tiny_path, ids, 3)
    assert ways_taken([completion]) == {"query"}
    llm.close()


ON_TIERS = ["pool.name=tiered", "pool.options.device=cpu", "attention.options.local=tiered"]


@pytest.mark.parametrize("instances", [1, 3])
def test_tokens_are_right_where_sequences_reach_into_host_memory(
    tiny: Checkpoint, tiny_path: Path, instances: int
) -> None:
    """Three contexts of 22 to 17 blocks; the device has 20, or each of three has 12."""
    llm = cluster(
        tiny,
        f"instances={instances}",
        "placement.name=ledger",
        *ON_TIERS,
        f"pool.num_blocks={20 if instances == 1 else 12}",
        "pool.lending.host_blocks=48",
        "scheduler.max_step_tokens=12",
    )
    reached = set()

    def look() -> None:
        for number, rmanager in enumerate(llm.rmanagers):
            device_blocks = llm.pools[number].num_blocks - 48
            used = rmanager.books.blocks(BlockState.USED)
            reached.update(number for block in used if block >= device_blocks)

    complete(llm, tiny_path, each=look)
    assert reached, "nobody took host memory"
    llm.close()


class FirstOnADevice(ReferencePool):
    """The first pool that is made lies on a device, all others in host memory."""

    num_made = 0

    def __new__(cls, config: Any, **runtime: Any) -> MemoryPool:  # type: ignore[misc]
        cls.num_made += 1
        if cls.num_made == 1:
            return DevicePool(DevicePool.Config(device="cpu"), **runtime)
        return super().__new__(cls)


@pytest.mark.parametrize("way", ["query", "mapped", "copy"])
def test_a_device_and_host_memory_lend_each_other(
    tiny: Checkpoint, tiny_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A GPU's instance borrows from one that has host memory only, and the other way round."""
    monkeypatch.setattr(FirstOnADevice, "num_made", 0)
    llm = cluster(
        tiny,
        "instances=2",
        "placement.name=placements_for_tests:EveryOther",
        *options_of_way(way),
        pool=FirstOnADevice,
    )
    assert [pool.region is None for pool in llm.pools] == [True, False]
    taken = ways_taken(complete(llm, tiny_path))
    assert taken == {"query": {"query"}, "mapped": {"query", "mapped"}, "copy": {"copy"}}[way]
    assert_all_returned(llm)
    llm.close()
