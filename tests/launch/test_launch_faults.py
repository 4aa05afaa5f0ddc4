"""Processes are killed and interrupted: no orphan remains, and an answer stays exact."""

import json
import os
import select
import signal
import time
from contextlib import suppress

import pytest
from command import Command
from tiny_checkpoint import PROMPT, prompt_ids
from tiny_models import reference_tokens

LONG = 64
"""tokens of an answer that is still being made when something is killed"""


def start(recipe, *overrides, tokens, processes=2):
    return Command(
        "generate",
        recipe,
        f"generate.max_tokens={tokens}",
        "generate.compare=false",
        "scheduler.lease_s=3",
        "pool.num_blocks=30" if tokens == LONG else "pool.num_blocks=300",
        "model.path=" + str(recipe.parent / "model"),
        *overrides,
        "--prompt",
        PROMPT,
        processes=processes,
    )


def until_it_speaks(command):
    """The first piece of the answer has come."""
    pipe = command.process.stdout.fileno()
    command.wait_until(lambda: select.select([pipe], [], [], 0)[0])


@pytest.mark.parametrize("victim", ["SIGTERM", "SIGINT", "supervisor 0", "supervisor 1", "agent"])
def test_no_orphan_remains(recipe, victim):
    command = start(recipe, tokens=3000)
    until_it_speaks(command)
    match victim:
        case "SIGTERM":
            command.process.send_signal(signal.SIGTERM)
        case "SIGINT":
            os.killpg(command.process.pid, signal.SIGINT)
        case "agent":
            command.process.kill()
        case _:
            os.kill(command.supervisors()[int(victim[-1])], signal.SIGKILL)
    done = command.finish()
    assert done.status != 0


@pytest.mark.parametrize("victim", ["step 0", "pool 0", "pool 1", "planner"])
def test_a_killed_process_is_started_again_and_the_answer_is_exact(recipe, victim):
    command = start(recipe, "--json", tokens=LONG)
    command.wait_until(lambda: len(command.supervisors()) == 2)
    first, second = command.supervisors()
    command.wait_until(lambda: len(command.children(first)) == 4)
    planner, pool, step, _ = command.children(first)
    command.wait_until(lambda: len(command.children(second)) == 2)
    pids = {"step 0": step, "pool 0": pool, "pool 1": command.children(second)[1]}
    # The owner's channel to the lender's pool stands as soon as it borrows: then it runs.
    command.wait_until(lambda: num_rings(step) >= 2)
    os.kill(pids.get(victim, planner), signal.SIGKILL)
    done = command.finish()
    assert done.status == 0, done.err
    assert f"the {victim.split()[0]} process ended (status -9)" in done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), LONG)


def num_rings(pid):
    """Shared-memory channels that a process has open."""
    with open(f"/proc/{pid}/maps") as maps:
        return sum("lendkv-r" in line for line in maps)


@pytest.mark.parametrize("gap_s", [0.1, 0.7])
def test_nor_when_it_is_told_twice(recipe, gap_s):
    command = start(recipe, tokens=3000, processes=0)
    until_it_speaks(command)
    command.process.send_signal(signal.SIGINT)
    time.sleep(gap_s)
    with suppress(ProcessLookupError):
        command.process.send_signal(signal.SIGINT)
    done = command.finish()
    assert done.status == 130
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_cluster_that_lendkv_started_leaves_without_a_traceback(recipe, number, status):
    command = start(recipe, tokens=3000, processes=0)
    until_it_speaks(command)
    command.process.send_signal(number)
    done = command.finish()
    assert done.status == status
    assert "Traceback" not in done.err
