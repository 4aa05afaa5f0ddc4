"""Instances whose keys lie in their step's own memory, as on a GPU; here the device is the CPU."""

import json

import pytest
import torch
from command import Command
from tiny_checkpoint import PROMPT, prompt_ids
from tiny_models import reference_tokens


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
    assert set(facts["ways"]) == {"query"}, "nobody can map a device's memory"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_missing_gpu_is_one_sentence(recipe):
    done = generate(recipe, "pool.name=device", "pool.options.device=cuda", processes=1)
    assert done.status != 0
    assert "Traceback" not in done.err
    assert sum("finds no CUDA GPU" in line for line in done.err.splitlines()) == 1
