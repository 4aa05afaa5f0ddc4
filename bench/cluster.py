"""What lending gains, and what it costs where it cannot gain: ``python -m bench.cluster [--json]``.

Two real instances, a core each, over a sweep of pool sizes. ``skewed``: instance 0 gets nearly all
requests; ``uniform``: short requests to both, and memory for all, so that nothing need be lent. The
files and what they are derived from are in ``bench/workloads``.

At each point of the sweep every placement serves the same file in turn (A B C A B C ...), because
times on a shared machine only compare within one run. Printed for each: output tokens per second,
goodput (output tokens per second of requests that met both objectives: time to the first token and
mean time of those after it), p99 TTFT, and the share of all computed rows that were computed again.
One round is a sweep of a quarter of an hour; ``--rounds 5`` gives medians.

``twice`` is no placement but what lending is held against: ``local_only`` in pools of twice the
size, the memory of both instances at home at the one that is short. Better than that is only who
also computes less again; a second core's bound is 2.
"""

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bench import fleet
from engine.client import Client
from engine.comm.control import ControlClient
from engine.core import Request, SamplingParams
from engine.protocol import Failed, Report, Submit, Tokens

WORKLOADS = Path(__file__).parent / "workloads"
SWEEP = {"skewed": (24, 32, 48, 64, 96), "uniform": (96,)}
"""pool sizes, in blocks, of each workload"""
PLACEMENTS = ("local_only", "ledger", "greedy", "balanced", "twice")
SETTINGS = (
    "instances=2",
    "threads=1",
    "model.path=smollm2",
    "model.dtype=bfloat16",
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
    num_prompt = sum(int(row["prompt_tokens"]) for row in waiting)
    numbers = random.Random(0)
    began = time.monotonic()
    failed = recomputed = 0
    first_after: list[float] = []
    later_every: list[float] = []
    sent: dict[str, float] = {}
    first_at: dict[str, float] = {}
    counts: Counter[str] = Counter()
    good = moved = 0
    ways: Counter[str] = Counter()
    while waiting or sent:
        now = time.monotonic() - began
        if now > LIMIT_S:
            raise SystemExit(f"{len(sent)} requests are not answered after {now:.0f} s")
        while waiting and float(waiting[0]["arrival_s"]) <= now:
            row = waiting.pop(0)
            prompt = [numbers.randrange(1000, 40000) for _ in range(int(row["prompt_tokens"]))]
            name, most = str(len(waiting)), int(row["output_tokens"])
            request = Request(
                request_id=name,
                prompt_ids=tuple(prompt),
                sampling=SamplingParams(max_tokens=most, ignore_eos=True),
                stays=True,
            )
            steps[int(row["instance"])].send(Submit(request))
            sent[name] = now
        for step in steps.values():
            for message in step.receive(0.005):
                match message:
                    case Tokens():
                        counts[message.request_id] += len(message.token_ids)
                        first_at.setdefault(message.request_id, time.monotonic() - began)
                    case Failed():
                        failed += 1
                        del sent[message.request_id]
                    case Report():
                        recomputed += message.recomputed_tokens
                        moved += message.moved_bytes
                        ways.update(message.steps_by_way)
                        name = message.request_id
                        first_after.append(first_at[name] - sent.pop(name))
                        rest_s = time.monotonic() - began - first_at[name]
                        later_every.append(rest_s / max(counts[name] - 1, 1))
                        in_time = first_after[-1] <= arguments["ttft_s"]
                        if in_time and later_every[-1] <= arguments["tpot_s"]:
                            good += counts[name]
    seconds = time.monotonic() - began
    total = counts.total()
    ttft_s, tpot_s = _spread(first_after), _spread(later_every)
    return {
        "output_tokens": total,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(total / seconds, 2),
        "goodput": round(good / seconds, 2),
        "p99_ttft_s": ttft_s["p99"],
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "recomputed_tokens": recomputed,
        "moved_bytes": moved,
        "ways": dict(ways),
        "recompute_share": round(recomputed / (num_prompt + total + recomputed), 3),
        "failed": failed,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (50, 99)}


FIGURES = ("tokens_per_s", "goodput", "p99_ttft_s", "recompute_share")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workloads", default=",".join(SWEEP), help="of bench/workloads")
    parser.add_argument("--pools", default="", help="sizes in blocks, instead of the sweep's")
    parser.add_argument("--placements", default=",".join(PLACEMENTS))
    parser.add_argument("--ttft-s", type=float, default=5.0, help="objective of the goodput")
    parser.add_argument("--tpot-s", type=float, default=0.05, help="objective of the goodput")
    args, overrides = parser.parse_known_args()
    names = args.placements.split(",")
    print(f"settings {' '.join([*SETTINGS, *overrides])}", flush=True)
    points: list[fleet.Facts] = []
    for workload in args.workloads.split(","):
        pools = [int(n) for n in args.pools.split(",")] if args.pools else SWEEP[workload]
        for num_blocks in pools:
            runs: dict[str, list[fleet.Facts]] = {name: [] for name in names}
            for _ in range(args.rounds):
                for name in names:
                    last = fleet.run(
                        "bench.cluster:drive",
                        [*SETTINGS, *_memory(name, num_blocks), *overrides],
                        workload=str(WORKLOADS / f"{workload}.csv"),
                        ttft_s=args.ttft_s,
                        tpot_s=args.tpot_s,
                    )
                    runs[name].append(last)
                    print(f"    {name}: {last}", flush=True)
            point = {"workload": workload, "pool_blocks": num_blocks, "runs": runs}
            points.append(point | {"placements": _show(workload, num_blocks, runs)})
    if args.json:
        print(json.dumps(points))
    return 0


def _memory(name: str, num_blocks: int) -> list[str]:
    """Pools and placement of one of PLACEMENTS."""
    if name == "twice":
        name, num_blocks = "local_only", 2 * num_blocks
    return [f"placement.name={name}", f"pool.num_blocks={num_blocks}"]


def _show(workload: str, num_blocks: int, runs: dict[str, list[fleet.Facts]]) -> fleet.Facts:
    """Print a point of the curve; its medians, and their ratios to the first placement's."""
    print(f"{workload}, pools of {num_blocks} blocks")
    shown: fleet.Facts = {}
    for name, found in runs.items():
        medians = {figure: statistics.median(run[figure] for run in found) for figure in FIGURES}
        rates = [run["tokens_per_s"] for run in found]
        first = next(iter(shown.values()), medians)
        ratio = round(medians["tokens_per_s"] / first["tokens_per_s"], 3)
        failed = sum(run["failed"] for run in found)
        shown[name] = medians | {"ratio": ratio, "failed": failed}
        print(
            f"  {name:11}{medians['tokens_per_s']:7.1f} tokens/s ({min(rates):.1f} to "
            f"{max(rates):.1f}) = {ratio:.2f} x, goodput {medians['goodput']:6.1f}, p99 TTFT "
            f"{medians['p99_ttft_s']:5.1f} s, computed again {medians['recompute_share']:.0%}",
            flush=True,
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
