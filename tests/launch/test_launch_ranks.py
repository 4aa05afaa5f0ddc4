"""Tensor parallelism under the true command: exact answers, lending, and ranks that are killed."""

import json
import os
import signal

import pytest
from command import Command
from test_launch_faults import LONG, num_rings, start
from test_launch_generate import answer_of
from tiny_checkpoint import PROMPT, prompt_ids
from tiny_models import reference_tokens

nightly = pytest.mark.nightly


@pytest.mark.parametrize(
    ("instances", "tp", "transport", "way"),
    [
        (1, 3, "shm", "query"),
        (2, 2, "tcp", "query"),
        pytest.param(1, 2, "shm", "query", marks=nightly),
        pytest.param(2, 2, "shm", "mapped", marks=nightly),
        pytest.param(2, 3, "shm", "query", marks=nightly),
        pytest.param(3, 2, "shm", "mapped", marks=nightly),
        pytest.param(3, 3, "tcp", "query", marks=nightly),
    ],
)
def test_tokens_are_those_of_transformers(recipe, instances, tp, transport, way):
    """4 query and 2 KV heads: with three ranks, two of them share a KV head."""
    command = Command(
        "generate",
        recipe,
        f"instances={instances}",
        f"tp={tp}",
        f"transport.name={transport}",
        f"attention.options.way={way}",
        "attention.options.wait_s=20",
        f"pool.num_blocks={54 // instances}",
        "--json",
        "--prompt",
        PROMPT,
        processes=0 if instances == 1 else instances,
    )
    facts = answer_of(command.finish())
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert len(facts["kv_blocks_by_instance"]) == instances
    assert instances == 1 or facts["ways"].keys() == {way}
    assert instances == 1 or facts["kv_bytes_avoided"] > 0


@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_killed_rank_ends_all_of_its_step_and_the_answer_is_exact(recipe, victim):
    command = start(recipe, "--json", "tp=2", "transport.name=shm", tokens=LONG)
    command.wait_until(lambda: len(command.supervisors()) == 2)
    first, _ = command.supervisors()
    command.wait_until(lambda: len(command.children(first)) == 5)
    planner, pool, leader, follower, frontend = command.children(first)
    # Its channel to the lender's pool stands as soon as the leader borrows: then it runs.
    command.wait_until(lambda: num_rings(follower) >= 1)
    os.kill(leader if victim == "leader" else follower, signal.SIGKILL)
    done = command.finish()
    assert done.status == 0, done.err
    name = "step" if victim == "leader" else "rank 1"
    said = [line for line in done.sentences if "starting it again" in line]
    assert said == [f"lendkv: instance 0: the {name} process ended (status -9); starting it again"]
    assert "Traceback" not in done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), LONG)
