"""How the planner grows with the cluster: ``python -m bench.control_plane [--json]``.

The real GManager and placements hear a made-up cluster's real messages: 10 to 10,000 instances with
100 running requests on average, up to 1,000,000 (bench/reporting.py). Nothing is modelled but what
the messages say.

Printed for each size and placement: a round of planning (median), hearing one instance's reports
for a second (decoded and handled, its timed steps learned), bytes of these reports, bytes of the
whole ones that a new planner asks for, and the memory that the planner takes for an instance. The
last line says how much faster than the cluster the round grew.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from typing import Any

from bench.reporting import BEATS_PER_S, BLOCK_TOKENS, LOADS_PER_S, REQUESTS, ReportingInstance
from engine import protocol as p
from engine.scheduler import PLACEMENTS
from engine.scheduler.gmanager import GManager
from engine.scheduler.performance import Performance

SIZES = (10, 100, 1000, 10000)
ROUNDS = 7


def measure(name: str, num_instances: int) -> dict[str, Any]:
    chance = random.Random(num_instances)
    instances = [ReportingInstance(n, num_instances, chance) for n in range(num_instances)]
    whole = [message for one in instances for message in (one.beat(), one.load())]
    second = [
        message
        for one in instances
        for message in (
            *(one.beat() for _ in range(BEATS_PER_S)),
            *(one.load() for _ in range(LOADS_PER_S)),
        )
    ]
    del instances
    kind = PLACEMENTS.load(name)
    planner = GManager(
        GManager.Config(plan_s=0.5),
        placement=kind(kind.Config()),
        cost=Performance(),
        block_tokens=BLOCK_TOKENS,
    )
    gc.collect()
    gc.freeze()  # what was made for the benchmark is no garbage of the planner's
    before = _resident_bytes()
    _hear(planner, whole, 0.0)
    began = time.perf_counter()
    _hear(planner, second, 0.5)
    heard_s = time.perf_counter() - began
    memory = _resident_bytes() - before
    rounds, num_advice = [], 0
    for number in range(ROUNDS):
        began = time.perf_counter()
        num_advice += len(planner.tick(0.5 + 0.5 * number))
        rounds.append(time.perf_counter() - began)
    return {
        "placement": name,
        "instances": num_instances,
        "requests": REQUESTS * num_instances,
        "round_ms": round(1e3 * statistics.median(rounds), 2),
        "advice": num_advice,
        "hearing_ms": round(1e3 * heard_s / num_instances, 3),
        "bytes_per_s": round(sum(map(len, second)) / num_instances),
        "whole_bytes": round(sum(map(len, whole)) / num_instances),
        "memory_kb": round(memory / 1e3 / num_instances, 1),
    }


def _hear(planner: GManager, said: list[bytes], now: float) -> None:
    for message in said:
        if planner.handle(p.TO_PLANNER(message), now) is not None:
            raise RuntimeError("the planner did not understand what was said")


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--placements", default="ledger,greedy,balanced")
    parser.add_argument("--instances", default=",".join(map(str, SIZES)))
    args = parser.parse_args()
    sizes = [int(size) for size in args.instances.split(",")]
    found = []
    print(
        "placement  instances   requests     round     hearing 1 s      bytes/s    whole    memory"
    )
    for name in args.placements.split(","):
        of = [measure(name, size) for size in sizes]
        for one in of:
            print(
                f"{name:9}{one['instances']:11,}{one['requests']:11,}{one['round_ms']:8.1f} ms"
                f"{one['hearing_ms']:10.2f} ms/instance{one['bytes_per_s']:9,}"
                f"{one['whole_bytes']:9,}{one['memory_kb']:8.1f} KB/instance",
                flush=True,
            )
        if len(of) > 1:
            grew = of[-1]["round_ms"] / max(of[-2]["round_ms"], 1e-3)
            by = of[-1]["instances"] / of[-2]["instances"]
            print(f"{name:9} the last {by:g} x in size took {grew:.1f} x as long")
        found += of
    if args.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
