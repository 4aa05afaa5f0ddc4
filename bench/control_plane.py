"""How the planner grows with the cluster: ``python -m bench.control_plane [--json]``.

The real GManager and placements hear a made-up cluster's real messages: 10 to 10,000 instances with
100 running requests on average, up to 1,000,000 (bench/reporting.py). Nothing is modelled but what
the messages say.

Printed for each size and placement: a round of planning (median), an answer to one that asks who
could lend, hearing one instance's reports for a second (decoded and handled, its timed steps
learned), bytes of these reports, bytes of the whole ones that a new planner asks for, and the
memory that the planner takes for an instance. Times are the processor's, so others on the machine
count for little. The last line says how rounds and answers grow, as exponents of the cluster's size
from each size to the next: 1 is in step with it.
"""

import argparse
import gc
import json
import math
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from bench.reporting import (
    BEATS_PER_S,
    BLOCK_TOKENS,
    HOSTED,
    LOADS_PER_S,
    REQUESTS,
    ReportingInstance,
)
from engine import protocol as p
from engine.scheduler import PLACEMENTS
from engine.scheduler.gmanager import GManager
from engine.scheduler.performance import Performance

SIZES = (10, 100, 1000, 10000)
ROUNDS = 7
QUERIES = 50
"""of as many instances, spread over the cluster"""


class Said(NamedTuple):
    """By a made-up cluster."""

    whole: list[bytes]
    """the first report of each pool and step"""
    second: list[bytes]
    """those of the second behind it"""


def said(num_instances: int) -> Said:
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
    return Said(whole, second)


def measure(name: str, num_instances: int, said: Said) -> dict[str, Any]:
    whole, second = said
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
    began = time.process_time()
    _hear(planner, second, 0.5)
    heard_s = time.process_time() - began
    memory = _resident_bytes() - before
    rounds, num_advice = [], 0
    for number in range(ROUNDS):
        began = time.process_time()
        num_advice += len(planner.tick(0.5 + 0.5 * number))
        rounds.append(time.process_time() - began)
    began = time.process_time()
    for query in range(QUERIES):
        asks = query * num_instances // QUERIES
        planner.handle(p.BorrowQuery(query, asks, f"host{asks // HOSTED}", 8), 3.5)
    answered_s = (time.process_time() - began) / QUERIES
    return {
        "placement": name,
        "instances": num_instances,
        "requests": REQUESTS * num_instances,
        "round_ms": round(1e3 * statistics.median(rounds), 2),
        "advice": num_advice,
        "answer_ms": round(1e3 * answered_s, 3),
        "hearing_ms": round(1e3 * heard_s / num_instances, 3),
        "bytes_per_s": round(sum(map(len, second)) / num_instances),
        "whole_bytes": round(sum(map(len, whole)) / num_instances),
        "memory_kb": round(memory / 1e3 / num_instances, 1),
    }


def apart(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Done by a fork, so that no planner takes memory that an earlier one has left."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(work()))
    process.start()
    sender.close()
    found: dict[str, Any] = receiver.recv()
    process.join()
    return found


def exponents(found: Sequence[dict[str, Any]], what: str) -> list[float]:
    """Of the number of instances, from each size to the next."""
    return [
        math.log(max(later[what], 1e-3) / max(earlier[what], 1e-3))
        / math.log(later["instances"] / earlier["instances"])
        for earlier, later in pairwise(found)
    ]


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
        "placement  instances   requests     round     answer       hearing 1 s      bytes/s"
        "    whole    memory"
    )
    of_size = {size: said(size) for size in sizes}
    for name in args.placements.split(","):
        of = []
        for size in sizes:
            one = apart(partial(measure, name, size, of_size[size]))
            of.append(one)
            print(
                f"{name:9}{one['instances']:11,}{one['requests']:11,}{one['round_ms']:8.1f} ms"
                f"{one['answer_ms']:8.3f} ms{one['hearing_ms']:10.2f} ms/instance"
                f"{one['bytes_per_s']:9,}{one['whole_bytes']:9,}"
                f"{one['memory_kb']:8.1f} KB/instance",
                flush=True,
            )
        if len(of) > 1:
            rounds, answers = (
                " ".join(f"{grew:.2f}" for grew in exponents(of, what))
                for what in ("round_ms", "answer_ms")
            )
            print(f"{name:9} exponents of growth: rounds {rounds}, answers {answers}", flush=True)
        found += of
    if args.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
