"""What short answers feel of a long prompt: ``python -m bench.long_prompt [--threads 2] [--json]``.

Eight sequences decode; a prompt of 7,000 tokens comes, then a short one. Printed for each step
budget (``scheduler.max_step_tokens``): the time between two tokens of those that decode, alone and
while the prompt is read, the time to the first token of the short prompt and of the long one. Each
figure is the median of several runs in turn; a step's bound is what its rows take at the rate of
the long prompt itself.
"""

import argparse
import json
import random
import statistics
import sys
import time
from typing import Any

import torch

from engine.config import load
from engine.core import Request, SamplingParams
from engine.inprocess import Completion
from engine.llm import LLM

BUDGETS = (64, 128, 256, 512)
BATCH, SHORT_TOKENS, LONG_TOKENS = 8, 64, 7000
BEFORE = 40
"""tokens that each of the batch has when the long prompt comes"""
SHORT_AFTER_S = 0.3


class Run:
    """One engine, asked as described above."""

    def __init__(self, llm: LLM, seed: int) -> None:
        self._llm = llm
        self._rng = random.Random(seed)
        self._times: dict[str, list[float]] = {}
        self._watched: dict[str, Completion] = {}

    def measure(self) -> dict[str, float]:
        """Milliseconds between two tokens, seconds to a first one."""
        for number in range(BATCH):
            self._submit(f"short {number}", SHORT_TOKENS, 8000 // BATCH)
        steps = self._llm.run()
        batch = [f"short {number}" for number in range(BATCH)]
        while min(len(self._times[name]) for name in batch) < BEFORE:
            self._step(steps)
        began = time.perf_counter()
        self._submit("long", LONG_TOKENS, 1)
        while time.perf_counter() < began + SHORT_AFTER_S:
            self._step(steps)
        late = time.perf_counter()
        self._submit("late", SHORT_TOKENS, 1)
        while not self._times["long"]:
            self._step(steps)
        ended = self._times["long"][0]
        alone, beside = list[float](), list[float]()
        for name in batch:
            times = self._times[name]
            for last, this in zip(times, times[1:], strict=False):
                if this < began:
                    alone.append(1e3 * (this - last))
                elif last > began and this <= ended:
                    beside.append(1e3 * (this - last))
        return {
            "alone_p50_ms": statistics.median(alone),
            "beside_p50_ms": statistics.median(beside),
            "beside_p99_ms": statistics.quantiles(beside, n=100)[98],
            "short_ttft_s": self._times["late"][0] - late,
            "long_ttft_s": ended - began,
        }

    def _submit(self, name: str, num_prompt: int, most: int) -> None:
        prompt = tuple(self._rng.randrange(1000, 40000) for _ in range(num_prompt))
        sampling = SamplingParams(max_tokens=most, ignore_eos=True)
        request = Request(request_id=name, prompt_ids=prompt, sampling=sampling)
        self._times[name], self._watched[name] = [], self._llm.submit(request)

    def _step(self, steps: Any) -> None:
        next(steps)
        now = time.perf_counter()
        for name, completion in self._watched.items():
            times = self._times[name]
            times += [now] * (len(completion.token_ids) - len(times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args, overrides = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    settings = [f"threads={args.threads}", f"model.path={args.model}", "model.dtype=bfloat16"]
    settings += ["pool.num_blocks=400", "pool.block_tokens=64"]
    runs: dict[int, list[dict[str, float]]] = {budget: [] for budget in BUDGETS}
    for number in range(args.rounds):
        for budget in BUDGETS:
            llm = LLM(load(None, [*settings, f"scheduler.max_step_tokens={budget}", *overrides]))
            runs[budget].append(Run(llm, number).measure())
            llm.close()
    print("max_step_tokens: ms between two tokens alone, beside (p99); s to a first token")
    facts: dict[str, Any] = {}
    for budget, found in runs.items():
        one = {name: statistics.median(run[name] for run in found) for name in found[0]}
        rows_ms = 1e3 * budget * one["long_ttft_s"] / LONG_TOKENS
        facts[str(budget)] = one | {"p99_of_rows": one["beside_p99_ms"] / rows_ms}
        print(
            f"{budget:15}: {one['alone_p50_ms']:.1f}, {one['beside_p50_ms']:.1f} "
            f"({one['beside_p99_ms']:.1f}, {facts[str(budget)]['p99_of_rows']:.2f} of its rows' "
            f"time); short {one['short_ttft_s']:.2f}, long {one['long_ttft_s']:.2f}"
        )
    if args.json:
        print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
