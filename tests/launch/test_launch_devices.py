"""Instances whose keys lie in their step's own memory, as on a GPU; here the device is the CPU."""

import json
import os
import signal

import pytest
import torch
from command import Command
from test_launch_faults import LONG, num_rings, start
from tiny_checkpoint import PROMPT, prompt_ids
from tiny_models import reference_tokens

from engine.attention.triton.backend import why_not

needs_triton = pytest.mark.skipif(bool(why_not()), reason=why_not())


def generate(recipe, *overrides, processes=2):
    return Command(
        "generate",
        recipe,
        f"instances={processes}",
        "attention.options.wait_s=20",
        "pool.num_blocks=27",
        *overrides,
        "--json",
        "--prompt",
        PROMPT,
        processes=processes if processes > 1 else 0,
    ).finish()


@pytest.mark.parametrize(("pool", "local"), [("device", "native"), ("tiered", "tiered")])
def test_instances_on_devices_lend_each_other(recipe, pool, local):
    done = generate(
        recipe,
        f"pool.name={pool}",
        "pool.options.device=cpu",
        f"attention.options.local={local}",
    )
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert all(facts["kv_blocks_by_instance"].values())
    assert set(facts["ways"]) == {"query"}, "nobody maps a device's memory untold"


MAPPED = ("pool.name=device", "pool.options.device=cpu", "pool.options.mapped=true")


def test_instances_on_devices_read_each_other(recipe):
    done = generate(recipe, *MAPPED, "transport.name=shm", "attention.options.way=mapped")
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert set(facts["ways"]) == {"mapped"}


@pytest.mark.parametrize("victim", ["owner", "holder"])
def test_a_killed_instance_that_is_read_is_started_again_and_the_answer_is_exact(recipe, victim):
    """Each has its pool's role in its step's process."""
    options = (*MAPPED, "transport.name=shm", "attention.options.way=mapped")
    command = start(recipe, "--json", *options, tokens=LONG)
    command.wait_until(lambda: len(command.supervisors()) == 2)
    first, second = command.supervisors()
    command.wait_until(lambda: len(command.children(first)) == 3)
    command.wait_until(lambda: len(command.children(second)) == 1)
    owner, holder = command.children(first)[1], command.children(second)[0]
    command.wait_until(lambda: num_pools(owner) == 2)  # it borrows, and has mapped
    os.kill(owner if victim == "owner" else holder, signal.SIGKILL)
    done = command.finish()
    assert done.status == 0, done.err
    assert "the step process ended (status -9)" in done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), LONG)


def num_pools(pid):
    """Files of pools that a process has mapped."""
    with open(f"/proc/{pid}/maps") as maps:
        return len({line.split()[4] for line in maps if "lendkv-pool" in line})


ON_TIERS = ("pool.name=tiered", "pool.options.device=cpu", "attention.options.local=tiered")


@pytest.mark.parametrize(
    ("instances", "tp", "kernel"),
    [
        (2, 2, "native"),
        pytest.param(1, 3, "native", marks=pytest.mark.nightly),
        pytest.param(2, 3, "native", marks=pytest.mark.nightly),
        pytest.param(2, 2, "triton", marks=[pytest.mark.nightly, needs_triton]),
    ],
)
def test_ranks_on_devices_lend_each_other(recipe, instances, tp, kernel):
    """Each rank's heads lie in a memory of its own; of three ranks two have the same KV head."""
    done = generate(
        recipe,
        f"tp={tp}",
        "pool.name=device",
        "pool.options.device=cpu",
        f"attention.options.local={kernel}",
        f"pool.num_blocks={54 // instances}",
        processes=instances,
    )
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert len(facts["kv_blocks_by_instance"]) == instances
    assert instances == 1 or facts["ways"].keys() == {"query"}, "nobody can map their memory"


@pytest.mark.parametrize(
    ("instances", "tp"),
    [
        (1, 2),
        (2, 2),
        pytest.param(1, 3, marks=pytest.mark.nightly),
        pytest.param(2, 3, marks=pytest.mark.nightly),
    ],
)
def test_ranks_on_devices_have_host_memory_behind_them(recipe, instances, tp):
    """34 blocks, and 22 of them fit on the devices of all instances: of each rank's heads."""
    done = generate(
        recipe,
        f"tp={tp}",
        *ON_TIERS,
        f"pool.num_blocks={22 // instances}",
        "pool.lending.host_blocks=24",
        processes=instances,
    )
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert sum(facts["kv_blocks_by_instance"].values()) > 22, "nobody took host memory"
    assert len(facts["kv_blocks_by_instance"]) == instances
    assert instances == 1 or facts["ways"].keys() == {"query"}


@pytest.mark.nightly
@pytest.mark.parametrize("pool", [("pool.name=device", "pool.options.device=cpu"), ON_TIERS])
def test_a_killed_rank_ends_the_pool_that_lies_apart_and_the_answer_is_exact(recipe, pool):
    command = start(recipe, "--json", "tp=2", "transport.name=shm", *pool, tokens=LONG)
    command.wait_until(lambda: len(command.supervisors()) == 2)
    first, _ = command.supervisors()
    command.wait_until(lambda: len(command.children(first)) == 4)
    _, _, follower, _ = command.children(first)
    command.wait_until(lambda: num_rings(follower) >= 1)  # the leader borrows
    os.kill(follower, signal.SIGKILL)
    done = command.finish()
    assert done.status == 0, done.err
    assert sum("rank 1 process ended (status -9)" in line for line in done.sentences) == 1
    assert "Traceback" not in done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), LONG)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_missing_gpu_is_one_sentence(recipe):
    done = generate(recipe, "pool.name=device", "pool.options.device=cuda", processes=1)
    assert done.status != 0
    assert "Traceback" not in done.err
    assert sum("finds no CUDA GPU" in line for line in done.err.splitlines()) == 1
