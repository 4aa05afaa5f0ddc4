"""What lending gains on a skewed load: ``python -m bench.cluster [--json]``.

Two real instances, a core each. Instance 0 gets nearly all requests of the workload file and has
memory for few of them at once; instance 1 is nearly idle. Each placement serves the same file in
turn (A B C A B C ...), because times on a shared machine only compare within one run. Printed: the
workload, the pools, output tokens per second of every run and the medians' ratios, and the curve of
output tokens over time.
"""

import argparse
import csv
import json
import random
import statistics
import sys
import time
from pathlib import Path

from bench import fleet
from engine.client import Client
from engine.comm.control import ControlClient
from engine.protocol import Failed, Report, Submit, Tokens

WORKLOAD = Path(__file__).parent / "workloads" / "skewed.csv"
PLACEMENTS = ("local_only", "ledger", "greedy", "balanced")
SETTINGS = (
    "instances=2",
    "threads=1",
    "model.path=smollm2",
    "model.dtype=bfloat16",
    "pool.num_blocks=24",
    "pool.block_tokens=64",
    "pool.lending.keep_blocks=2",
    "scheduler.max_step_tokens=256",
    "scheduler.grow_blocks=1",
)
LIMIT_S = 240.0


def drive(steps: dict[int, ControlClient], client: Client, arguments: fleet.Facts) -> fleet.Facts:
    """Send the workload at its times, each request to its instance; count tokens."""
    with Path(arguments["workload"]).open() as file:
        waiting = sorted(csv.DictReader(file), key=lambda row: float(row["arrival_s"]))
    numbers = random.Random(0)
    began, curve = time.monotonic(), []
    total = failed = recomputed = 0
    sent: dict[str, float] = {}
    first_after: list[float] = []
    while waiting or sent:
        now = time.monotonic() - began
        if now > LIMIT_S:
            raise SystemExit(f"{len(sent)} requests are not answered after {now:.0f} s")
        while waiting and float(waiting[0]["arrival_s"]) <= now:
            row = waiting.pop(0)
            prompt = [numbers.randrange(1000, 40000) for _ in range(int(row["prompt_tokens"]))]
            name, most = str(len(waiting)), int(row["output_tokens"])
            submit = Submit(name, prompt, most, 0.0, 1.0, 0, 0, True, stays=True)
            steps[int(row["instance"])].send(submit)
            sent[name] = now
        for step in steps.values():
            for message in step.receive(0.005):
                match message:
                    case Tokens():
                        total += len(message.token_ids)
                        if not message.index:
                            first_after.append(time.monotonic() - began - sent[message.request_id])
                    case Failed():
                        failed += 1
                        del sent[message.request_id]
                    case Report():
                        recomputed += message.recomputed_tokens
                        del sent[message.request_id]
        if not curve or now - curve[-1][0] >= 1.0:
            curve.append((round(now, 1), total))
    seconds = time.monotonic() - began
    first_after.sort()
    return {
        "output_tokens": total,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(total / seconds, 2),
        "p99_ttft_s": round(first_after[int(0.99 * len(first_after))], 2),
        "failed": failed,
        "recomputed_tokens": recomputed,
        "curve": curve,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workload", type=Path, default=WORKLOAD)
    parser.add_argument("--placements", default=",".join(PLACEMENTS))
    args, overrides = parser.parse_known_args()
    names = args.placements.split(",")
    print(f"workload {args.workload}, settings {' '.join([*SETTINGS, *overrides])}", flush=True)
    runs: dict[str, list[fleet.Facts]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            settings = [*SETTINGS, f"placement.name={name}", *overrides]
            last = fleet.run("bench.cluster:drive", settings, workload=str(args.workload))
            runs[name].append(last)
            print(
                f"{name:11} {last['tokens_per_s']:>7} tokens/s, {last['seconds']} s, p99 TTFT "
                f"{last['p99_ttft_s']} s, {last['recomputed_tokens']} tokens recomputed",
                flush=True,
            )
    rates = {name: [run["tokens_per_s"] for run in found] for name, found in runs.items()}
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, median in medians.items():
        ratio = median / medians[names[0]]
        spread = f"{min(rates[name]):.1f} to {max(rates[name]):.1f}"
        print(f"{name:11} median {median:7.2f} tokens/s ({spread}) = {ratio:.2f} x {names[0]}")
        print(f"            curve (s, tokens): {runs[name][-1]['curve']}")
    if args.json:
        print(json.dumps({"medians": medians, "runs": runs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
