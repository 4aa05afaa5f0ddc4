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
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from engine.client import Client
from engine.comm.control import ControlClient
from engine.config import Config, load
from engine.launch import launch
from engine.protocol import FROM_STEP, Failed, Report, Submit, Tokens

WORKLOAD = Path(__file__).parent / "workloads" / "skewed.csv"
PLACEMENTS = ("local_only", "greedy", "balanced")
SETTINGS = (
    "instances=2",
    "threads=1",
    "model.path=smollm2",
    "pool.num_blocks=24",
    "pool.block_tokens=64",
    "pool.lending.keep_blocks=2",
    "scheduler.max_step_tokens=256",
    "scheduler.grow_blocks=1",
)
LIMIT_S = 240.0


class Load:
    """The frontend of rank 0: sends the workload, counts tokens, tells all to leave."""

    def __init__(self, workload: Path, result: Path, num_instances: int) -> None:
        self._workload = workload
        self._result = result
        self._num_instances = num_instances

    def __call__(self, pipe: Connection, planner: str, key: bytes) -> int:
        client = Client(planner, key)
        try:
            client.wait_ready(self._num_instances, 120.0, lambda _: None)
            time.sleep(1.0)
            members = {m.instance: m.step_address for m in client.members()}
            self._result.write_text(json.dumps(self._run(members, key)))
        finally:
            client.goodbye()
        return 0

    def _run(self, addresses: dict[int, str], key: bytes) -> dict[str, object]:
        with self._workload.open() as file:
            waiting = sorted(csv.DictReader(file), key=lambda row: float(row["arrival_s"]))
        steps = {i: ControlClient(address, FROM_STEP, key) for i, address in addresses.items()}
        numbers = random.Random(0)
        began, open_requests, curve = time.monotonic(), 0, []
        total = failed = recomputed = 0
        while waiting or open_requests:
            now = time.monotonic() - began
            if now > LIMIT_S:
                raise SystemExit(f"{open_requests} requests are not answered after {now:.0f} s")
            while waiting and float(waiting[0]["arrival_s"]) <= now:
                row = waiting.pop(0)
                prompt = [numbers.randrange(1000, 40000) for _ in range(int(row["prompt_tokens"]))]
                name, most = str(len(waiting)), int(row["output_tokens"])
                submit = Submit(name, prompt, most, 0.0, 1.0, 0, 0, True, stays=True)
                steps[int(row["instance"])].send(submit)
                open_requests += 1
            for step in steps.values():
                for message in step.receive(0.005):
                    match message:
                        case Tokens():
                            total += len(message.token_ids)
                        case Failed():
                            failed, open_requests = failed + 1, open_requests - 1
                        case Report():
                            recomputed += message.recomputed_tokens
                            open_requests -= 1
            if not curve or now - curve[-1][0] >= 1.0:
                curve.append((round(now, 1), total))
        seconds = time.monotonic() - began
        return {
            "output_tokens": total,
            "seconds": round(seconds, 2),
            "tokens_per_s": round(total / seconds, 2),
            "failed": failed,
            "recomputed_tokens": recomputed,
            "curve": curve,
        }


def worker(result: Path, workload: Path, overrides: list[str]) -> int:
    config: Config = load(None, overrides)
    cores = sorted(os.sched_getaffinity(0))
    rank = int(os.environ["RANK"])
    os.sched_setaffinity(0, {cores[rank % len(cores)]})  # inherited by all its roles
    main = Load(workload, result, config.instances)
    return launch(config, lambda world: {} if world.rank else {"load": main})


def run_once(placement: str, workload: Path, overrides: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", "-m", "bench.cluster", "--worker", str(result)]
        command += ["--workload", str(workload), *SETTINGS, f"placement.name={placement}"]
        subprocess.run([*command, *overrides], check=True)
        found: dict[str, object] = json.loads(result.read_text())
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workload", type=Path, default=WORKLOAD)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.worker:
        return worker(args.worker, args.workload, overrides)
    print(f"workload {args.workload}, settings {' '.join([*SETTINGS, *overrides])}", flush=True)
    runs: dict[str, list[dict[str, object]]] = {name: [] for name in PLACEMENTS}
    for _ in range(args.rounds):
        for name in PLACEMENTS:
            runs[name].append(run_once(name, args.workload, overrides))
            last = runs[name][-1]
            print(f"{name:11} {last['tokens_per_s']:>7} tokens/s, {last['seconds']} s", flush=True)
    medians = {
        name: statistics.median(float(str(run["tokens_per_s"])) for run in found)
        for name, found in runs.items()
    }
    for name, median in medians.items():
        ratio = median / medians["local_only"]
        print(f"{name:11} median {median:7.2f} tokens/s = {ratio:.2f} x local_only")
        print(f"            curve (s, tokens): {runs[name][-1]['curve']}")
    if args.json:
        print(json.dumps({"medians": medians, "runs": runs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
