"""The simulator held against real instances: ``python -m bench.validation [--json]``.

Two real instances, a core each (``bench.cluster``), and the simulator with a profile of this
machine (``lendkv profile``, written first unless ``--profile`` names one) serve the same files in
turn, with each placement: output tokens per second, median TTFT and TPOT, and their 99th
percentiles. The limits: 20 % for the first three, for the percentiles 30 % or what real runs differ
by, whichever is more. Printed is also what other processes took of the cores meanwhile: beyond a
few percent a real run says nothing. The profile times decodes and prefills of its own; no file of
the validation is part of it. ``held.csv`` was not looked at while the model was made.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import fleet
from bench.cluster import SETTINGS, WORKLOADS
from engine.config import Config, load
from engine.measure.cores import used_s
from engine.sim.serving.config import ServingConfig, WorkloadConfig
from engine.sim.serving.run import run
from engine.sim.serving.workload import arrivals

POOLS = {"skewed": 48, "uniform": 96, "held": 32}
"""blocks of each instance, by file of bench/workloads"""
PLACEMENTS = ("local_only", "ledger", "greedy", "balanced")
LIMIT, LIMIT_P99 = 0.2, 0.3
CALM = 0.05
"""of the cores: what others may take of a real run that counts"""
FIGURES = {
    # name: (place in the facts of either side, whether it is a 99th percentile)
    "tokens/s": (("tokens_per_s",), False),
    "TTFT p50": (("ttft_s", "p50"), False),
    "TPOT p50": (("tpot_s", "p50"), False),
    "TTFT p99": (("ttft_s", "p99"), True),
    "TPOT p99": (("tpot_s", "p99"), True),
}


class Spare:
    """From its making on: what processes that are not ours take of the cores."""

    def __init__(self) -> None:
        self._began, self._busy, self._ours = time.monotonic(), used_s(), self._ours_s()

    def taken(self) -> float:
        """A share of all cores; children that have not been waited for count as others."""
        others = used_s() - self._busy - (self._ours_s() - self._ours)
        cores = os.cpu_count() or 1
        share = others / cores / (time.monotonic() - self._began)
        return round(min(max(0.0, share), 1.0), 3)  # the kernel counts in ticks

    @staticmethod
    def _ours_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


def as_simulated(config: Config, hardware: Path, trace: Path) -> ServingConfig:
    """What the simulator runs for a real configuration."""
    return ServingConfig(
        model=config.model.path,
        hardware=str(hardware),
        instances=config.instances,
        block_tokens=config.pool.block_tokens,
        pool_blocks=config.pool.num_blocks,
        scheduler=config.scheduler,
        lending=config.pool.lending,
        planner=config.planner,
        heartbeat_s=config.cluster.heartbeat_s,
        workload=WorkloadConfig(trace=str(trace)),
        strides=False,
    )


def compared(real: list[fleet.Facts], simulated: fleet.Facts) -> list[dict[str, Any]]:
    """Each figure of both sides, their difference as a share, and its limit."""
    found = []
    for name, (place, is_p99) in FIGURES.items():
        values = [_at(one, place) for one in real]
        median, other = statistics.median(values), _at(simulated, place)
        spread = (max(values) - min(values)) / median if median else 0.0
        difference = (other - median) / median if median else 0.0
        limit = max(LIMIT_P99, spread) if is_p99 else LIMIT
        found.append(
            {
                "figure": name,
                "real": median,
                "simulated": other,
                "difference": round(difference, 3),
                "spread": round(spread, 3),
                "limit": round(limit, 3),
                "is_met": abs(difference) <= limit,
            }
        )
    return found


def _at(facts: fleet.Facts, place: tuple[str, ...]) -> float:
    value: Any = facts
    for part in place:
        value = value[part]
    return float(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tries", type=int, default=1, help="of a real run that others disturb")
    parser.add_argument("--profile", default="", help="of this machine, written before")
    parser.add_argument("--workloads", default=",".join(POOLS))
    parser.add_argument("--placements", default=",".join(PLACEMENTS))
    args, overrides = parser.parse_known_args()
    settings = [*SETTINGS, *overrides]
    with tempfile.TemporaryDirectory(prefix="lendkv-validation-") as folder:
        hardware = Path(args.profile or Path(folder) / "machine.yaml")
        if not args.profile:
            command = [sys.executable, "-m", "engine", "profile", "--output", str(hardware)]
            subprocess.run([*command, *SETTINGS, *overrides], check=True)
        print(hardware.read_text(), flush=True)
        names = args.placements.split(",")
        points = []
        for workload in args.workloads.split(","):
            points += _validate(workload, names, settings, hardware, args)
    over = [f"{one['workload']} {one['placement']}" for one in points if not one["is_met"]]
    print(f"outside the limits: {', '.join(over) or 'none'}")
    if args.json:
        print(json.dumps(points))
    return 0


def _validate(
    workload: str,
    names: list[str],
    settings: list[str],
    hardware: Path,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A file's points, one a placement; real rounds in turn."""
    trace = WORKLOADS / f"{workload}.csv"
    real: dict[str, list[fleet.Facts]] = {name: [] for name in names}
    configs = {
        name: [*settings, f"placement.name={name}", f"pool.num_blocks={POOLS[workload]}"]
        for name in names
    }
    for _ in range(args.rounds):
        for name in names:
            real[name].append(_undisturbed(name, configs[name], trace, args.tries))
    points = []
    for name in names:
        config = as_simulated(load(None, configs[name]), hardware, trace)
        simulated = run(config, name, arrivals(config.workload, 0))
        figures = compared(real[name], simulated)
        is_met = all(one["is_met"] for one in figures)
        points.append(
            {
                "workload": workload,
                "placement": name,
                "figures": figures,
                "is_met": is_met,
                "real": real[name],
                "simulated": simulated,
            }
        )
        _show(workload, name, figures, real[name][-1], simulated)
    return points


def _undisturbed(name: str, settings: list[str], trace: Path, tries: int) -> fleet.Facts:
    """The first run that others left alone, else the one that they disturbed least."""
    found: list[fleet.Facts] = []
    for _ in range(tries):
        spare = Spare()
        last = fleet.run(
            "bench.cluster:drive", settings, workload=str(trace), ttft_s=5.0, tpot_s=0.05
        )
        last["others"] = spare.taken()
        print(f"    {name}: {last}", flush=True)
        found.append(last)
        if last["others"] <= CALM:
            break
    return min(found, key=lambda one: float(one["others"]))


def _show(
    workload: str,
    name: str,
    figures: list[dict[str, Any]],
    real: fleet.Facts,
    simulated: fleet.Facts,
) -> None:
    print(
        f"{workload}, {name}: computed again {real['recomputed_tokens']} tokens, simulated "
        f"{simulated['recomputed_tokens']}; other processes took {real['others']:.0%} of the cores"
    )
    for one in figures:
        print(
            f"  {one['figure']:9} real {one['real']:9.4g}  simulated {one['simulated']:9.4g}  "
            f"{one['difference']:+7.1%} (limit {one['limit']:.0%}; real runs differ by "
            f"{one['spread']:.0%}) {'ok' if one['is_met'] else 'OVER'}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
