"""With model.bits=schedule a sequence's logits do not depend on chunks, batch or recompute."""

import pytest
import torch
from cluster_harness import prompt
from tiny_models import make_tiny

from engine import Engine
from engine.config import load
from engine.core import SamplingParams
from engine.errors import ConfigError

NUM_TOKENS = 5
SCHEDULES = [(256, 0), (1, 0), (3, 0), (17, 2), (130, 3), (40, 1)]
"""(tokens in a step, other requests beside it)"""


def logits_of_first(path, dtype, max_step_tokens, num_others):
    overrides = [f"model.path={path}", f"model.dtype={dtype}", "model.bits=schedule"]
    overrides += [f"scheduler.max_step_tokens={max_step_tokens}", "pool.block_tokens=8"]
    engine = Engine(load(None, overrides))
    seen = []
    run = engine.loops[0]._runner.run

    def recorded(plan):
        logits_NV, poisoned = run(plan)
        seen.extend(
            row.clone()
            for row, index in zip(logits_NV, plan.sampled, strict=True)
            if plan.spans[index].sequence == 1
        )
        return logits_NV, poisoned

    engine.loops[0]._runner.run = recorded  # type: ignore[method-assign]
    prompts = [prompt(150, 1), *(prompt(20 + 31 * n, 2 + n) for n in range(num_others))]
    engine.complete(prompts, SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True))
    engine.close()
    assert len(seen) == NUM_TOKENS
    return torch.stack(seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neither_chunks_nor_company_change_a_bit(dtype, tmp_path):
    path = make_tiny(tmp_path / "model", max_positions=1024)
    first, *others = (logits_of_first(path, dtype, *schedule) for schedule in SCHEDULES)
    for schedule, other in zip(SCHEDULES[1:], others, strict=True):
        assert torch.equal(first, other), schedule


def test_a_backend_that_sums_over_chunks_is_refused(tmp_path):
    path = make_tiny(tmp_path / "model")
    with pytest.raises(ConfigError, match="model.bits=schedule: the backend SdpaBackend"):
        Engine(load(None, [f"model.path={path}", "model.bits=schedule"]), attention="sdpa")
