"""Pools on devices that read each other's blocks in place; the device is the CPU.

The same kernels read the same addresses as on GPUs; how a GPU's memory is opened is stood in for in
tests/attention/test_lenders.py.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
from cluster_harness import assert_all_returned, cluster, greedy, prompt, run_all
from test_device_pools import ON_DEVICE, FirstOnADevice
from test_dist_faults import (
    ON_1,
    ON_1_AND_2,
    Scene,
    change_in_the_middle_of_a_step,
    drop_loans,
)
from test_tokens_equal import LAYOUTS, complete, options_of_way, ways_taken

from engine.attention.triton.backend import why_not
from engine.core import Request
from engine.memory.base import MemoryPool
from engine.memory.device import DevicePool
from engine.model.checkpoint import Checkpoint

MAPPED = [*ON_DEVICE, "pool.options.mapped=true", *options_of_way("mapped")]


@pytest.mark.parametrize("kernel", ["native", "reference", "sdpa"])
def test_tokens_are_right_where_devices_read_each_other(
    tiny: Checkpoint, tiny_path: Path, kernel: str
) -> None:
    layout = LAYOUTS["every_other"]
    local = f"attention.options.local={kernel}"
    llm = cluster(tiny, "instances=3", *layout, *MAPPED, local)
    assert ways_taken(complete(llm, tiny_path)) == {"mapped"}
    assert all(loop.lenders.are_mapped for loop in llm.loops)
    llm.close()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_triton_reads_blocks_of_another_devices_pool(tiny: Checkpoint, tiny_path: Path) -> None:
    local = "attention.options.local=triton"
    llm = cluster(tiny, "instances=2", *LAYOUTS["every_other"], *MAPPED, local)
    ids = prompt(18, 18)
    request = Request(request_id="0", prompt_ids=tuple(ids), sampling=greedy(3))
    completion = llm.submit(request, instance=0)
    run_all(llm)
    assert completion.token_ids == tiny_models.reference_tokens(tiny_path, ids, 3)
    assert ways_taken([completion]) == {"mapped"}
    llm.close()


class FirstOnAMappedDevice(FirstOnADevice):
    def __new__(cls, config: Any, **runtime: Any) -> MemoryPool:  # type: ignore[misc]
        cls.num_made += 1
        if cls.num_made == 1:
            return DevicePool(DevicePool.Config(device="cpu", mapped=True), **runtime)
        return super().__new__(cls, config, **runtime)


def test_a_device_and_host_memory_read_each_other(
    tiny: Checkpoint, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FirstOnAMappedDevice, "num_made", 0)
    llm = cluster(
        tiny,
        "instances=2",
        "placement.name=placements_for_tests:EveryOther",
        *options_of_way("mapped"),
        pool=FirstOnAMappedDevice,
    )
    assert [type(pool) is DevicePool for pool in llm.pools] == [True, False]
    assert ways_taken(complete(llm, tiny_path)) == {"mapped"}
    llm.close()


def test_a_holder_that_dies_costs_the_recompute_of_what_it_held(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    scene = Scene(tiny, tiny_path, ON_1_AND_2, *MAPPED)
    rounds = scene.decode()
    lost = scene.held_by(2)
    scene.llm.kill(2)
    scene.finish(rounds)
    assert scene.recomputed == lost > 0
    assert_all_returned(scene.llm, [0, 1])
    scene.llm.close()


def test_loans_that_end_behind_the_debtors_back_are_noticed_before_a_token_is_wrong(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    scene = Scene(tiny, tiny_path, ON_1_AND_2, *MAPPED)
    rounds = scene.decode()
    llm, start, lost = scene.llm, len(scene.steps), scene.held_by(1)
    drop_loans(llm, 1)
    for block in range(llm.pools[1].num_blocks):  # whoever reads there reads NaN
        llm.pools[1].write(block, 0, b"\xff" * llm.pools[1].layout.block_bytes)
    scene.finish(rounds)
    assert scene.poisoned_since(start)
    assert scene.recomputed == lost
    assert_all_returned(llm)
    llm.close()


def test_a_block_that_changes_in_the_middle_of_a_step_is_not_published(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    change_in_the_middle_of_a_step(Scene(tiny, tiny_path, ON_1, *MAPPED))
