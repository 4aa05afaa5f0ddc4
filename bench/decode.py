"""Tokens per second of one instance, beside what memory and arithmetic allow:
``python -m bench.decode [--threads 2] [--model smollm2] [--json] [key=value ...]``.

Decode of 1, 8 and 32 sequences and of one at a context of 512 and of 7,000 tokens, and prefill of
so many (alone: ``python -m bench.prefill``), each the median of several. The bound of a decode step
is one reading of weights and keys at the streaming rate of the same run, or its products at the
matrix rate; a prefill's is its products. The matrix rate is that of bfloat16 or float32, whichever
is faster; products of 8-bit integers (``model.quantization=int8``) may exceed it.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from typing import Any

import torch

from bench.cases import CASES, NUM_STEPS
from bench.rates import matrix_gflops, stream_gb_s
from engine.callbacks import Callback
from engine.config import load
from engine.core import Plan, SamplingParams
from engine.llm import LLM
from engine.model.checkpoint import Checkpoint
from engine.model.layout import fused_weights


class Timed(Callback):
    """Notes how long each step took, from the last one's end: scheduling and sampling included."""

    def __init__(self) -> None:
        self.seconds: list[tuple[int, float]] = []
        self._last = 0.0

    def begin(self) -> None:
        """The first step's time counts from here."""
        self.seconds.clear()
        self._last = time.perf_counter()

    def on_step_end(self, plan: Plan, seconds: float, poisoned: frozenset[int]) -> None:
        last, self._last = self._last, time.perf_counter()
        self.seconds.append((plan.num_rows, self._last - last))


def sizes(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Weights of the layers' matrices, of the head, and the bytes of both."""
    products = [w for w in fused_weights(checkpoint.config, own_head=True) if w.multiplies]
    stored, tied = checkpoint.weights, checkpoint.weights["embed"]
    num_bytes = sum(stored.get(weight.name, tied).nbytes for weight in products)
    *layers, head = (math.prod(weight.shape) for weight in products)
    return sum(layers), head, num_bytes


def main(*, prefill_only: bool = False) -> int:
    """``prefill_only``: the figures of ``bench.prefill``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args, overrides = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    settings = [f"threads={args.threads}", f"model.path={args.model}", "model.dtype=bfloat16"]
    settings += ["pool.num_blocks=400", "pool.block_tokens=64"]
    settings += ["scheduler.max_num_seqs=64", "scheduler.max_step_tokens=512"]
    timed, rng = Timed(), random.Random(0)
    llm = LLM(load(None, [*settings, *overrides]), callbacks=[timed])
    num_matrix, num_head, weight_bytes = sizes(llm.checkpoint)  # type: ignore[arg-type]
    key_bytes = llm.pools[0].layout.block_bytes / llm.pools[0].layout.tokens
    stream, matrix = stream_gb_s(args.threads), matrix_gflops(args.threads)
    print(f"streaming read {stream:.1f} GB/s, matrix product {matrix:.0f} GFLOP/s")
    facts: dict[str, Any] = {"stream_gb_s": stream, "matrix_gflops": matrix}
    rates: dict[str, list[float]] = {}
    bounds: dict[str, float] = {}
    cases = [case for case in CASES if case.prefill or not prefill_only]
    sampling = SamplingParams(max_tokens=1 if prefill_only else NUM_STEPS, ignore_eos=True)
    for _ in range(args.rounds):
        for name, batch, length, prefill in cases:
            prompts = [[rng.randrange(1000, 40000) for _ in range(length)] for _ in range(batch)]
            timed.begin()
            llm.generate(prompts, sampling)
            if not prefill_only:
                steps = [s for rows, s in timed.seconds if rows == batch]
                rates.setdefault(name, []).append(batch * len(steps) / sum(steps))
                read_s = (weight_bytes + batch * length * key_bytes) / stream / 1e9
                compute_s = 2 * batch * (num_matrix + num_head) / matrix / 1e9
                bounds[name] = batch / max(read_s, compute_s)
            if prefill:
                filled = [(rows, s) for rows, s in timed.seconds if rows > batch]
                tokens, seconds = sum(rows for rows, _ in filled), sum(s for _, s in filled)
                rates.setdefault(prefill, []).append(tokens / seconds)
                bounds[prefill] = matrix * 1e9 / 2 / num_matrix
    for name, found in rates.items():
        median = statistics.median(found)
        facts[name] = {"tokens_per_s": round(median, 1), "of_bound": median / bounds[name]}
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(
            f"{name:15} {median:7.0f} tokens/s ({spread}) = {median / bounds[name]:.2f} of the "
            f"bound {bounds[name]:.0f}"
        )
    if args.json:
        print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
