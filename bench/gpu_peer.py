"""Times decode steps of transformers' continuous batching for bench.gpu, in its own process.

    python -m bench.gpu_peer CASE DEVICE

CASE: a StepCase in JSON. A step is the time between two tokens of a sequence while all sequences
decode. Prints one line of JSON: seconds, version, and what computed the attention.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from statistics import median

import torch

from bench.gpu_steps import StepCase

NEW_TOKENS = 96
"""more than there are chunks of prefills: then all sequences decode together at the end"""
CHUNK = 4096
"""tokens of a step with prefills"""
PAGE = 256


def steps_together(stamps: Sequence[Sequence[float]]) -> list[float]:
    """Times between the tokens of the last sequence to begin, as long as all go on."""
    first, end = max(one[0] for one in stamps), min(one[-1] for one in stamps)
    last = max(stamps, key=lambda one: one[0])
    together = [stamp for stamp in last if first <= stamp <= end]
    return [b - a for a, b in zip(together, together[1:], strict=False)]


def measure(case: StepCase, device: torch.device) -> dict[str, object]:
    import transformers

    model = case.model(device).in_transformers("sdpa")
    length = case.keys - NEW_TOKENS
    numbers = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    prompts = [
        torch.randint(vocabulary, (max(1, length),), generator=numbers).tolist()
        for _ in range(case.batch)
    ]
    found = model.generate_batch(
        prompts,
        generation_config=transformers.GenerationConfig(
            max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1
        ),
        continuous_batching_config=transformers.ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=case.batch * -(-(case.keys + PAGE) // PAGE),
            max_batch_tokens=CHUNK,
        ),
        record_timestamps=True,
    )
    steps = steps_together([one.timestamps for one in found.values()])
    if not steps:
        raise SystemExit(f"its {case.batch} sequences never decode together")
    attention = model.config._attn_implementation
    return {
        "step_s": median(steps),
        "version": transformers.__version__,
        "attention": attention,
    }


def main() -> None:
    case, device = sys.argv[1:]
    print(json.dumps(measure(StepCase(**json.loads(case)), torch.device(device))))


if __name__ == "__main__":
    main()
