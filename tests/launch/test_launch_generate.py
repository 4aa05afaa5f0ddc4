"""The true command under the true torchrun: exact answers from pools that are too small alone."""

import json

import pytest
from command import Command
from tiny_checkpoint import PROMPT, prompt_ids
from tiny_models import reference_tokens

KEYS = {
    "text",
    "token_ids",
    "prompt_tokens",
    "kv_blocks_by_instance",
    "query_bytes",
    "kv_bytes_avoided",
    "equal_to_single",
    "ttft_s",
    "tpot_ms",
    "ways",
}


def answer_of(done):
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    facts = json.loads(done.out)
    assert facts.keys() >= KEYS
    return facts


@pytest.mark.parametrize(
    ("instances", "transport", "way"),
    [
        (2, "shm", "query"),
        (2, "shm", "mapped"),
        (2, "shm", "copy"),
        (2, "tcp", "query"),
        (3, "shm", "query"),
        (3, "tcp", "query"),
        (2, "nixl", "copy"),
    ],
)
def test_tokens_are_those_of_transformers_and_of_one_big_instance(
    recipe, instances, transport, way
):
    command = Command(
        "generate",
        recipe,
        f"instances={instances}",
        f"transport.name={transport}",
        *(["transport.options.bulk_bytes=256"] if transport == "nixl" else []),
        f"attention.options.way={way}",
        f"attention.options.staging_blocks={16 if way == 'copy' else 0}",
        "attention.options.wait_s=20",
        f"pool.num_blocks={54 // instances + (16 if way == 'copy' else 0)}",
        "--json",
        "--prompt",
        PROMPT,
        processes=instances,
    )
    facts = answer_of(command.finish())
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert facts["prompt_tokens"] == len(prompt_ids())
    assert len(facts["kv_blocks_by_instance"]) == instances
    assert way in facts["ways"]
    assert facts["kv_bytes_avoided"] > 0 or way == "copy"


def test_eight_instances_meet(recipe):
    command = Command(
        "generate",
        recipe,
        "instances=8",
        "generate.compare=false",
        "attention.options.wait_s=20",
        "--json",
        "--prompt",
        PROMPT,
        processes=8,
    )
    facts = answer_of(command.finish())
    assert facts["token_ids"] == reference_tokens(recipe.parent / "model", prompt_ids(), 16)


@pytest.mark.parametrize("instances", [1, 2])
def test_the_command_starts_torchrun_itself_where_it_is_needed(recipe, instances):
    size = [] if instances == 2 else ["instances=1", "pool.num_blocks=64"]
    done = Command("generate", recipe, *size, "--prompt", PROMPT).finish()
    assert done.status == 0, done.err
    assert "tokens equal to one big instance: 16/16" in done.out
