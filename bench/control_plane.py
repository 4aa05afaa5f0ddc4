"""How the planner grows with the cluster: ``python -m bench.control_plane [--json]``.

The real GManager and placements hear a made-up cluster's real messages: 10 to 10,000 instances with
100 running requests on average, up to 1,000,000. Three in ten instances are crowded (few long
sequences, others wait for memory), the rest have short ones and some room. Nothing is modelled but
what the messages say.

Printed for each size and placement: a round of planning (median), hearing one instance's reports
for a second (decoded and handled, its timed steps learned), bytes of these reports, and the memory
that the planner takes. The last line says how much faster than the cluster the round grew.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from typing import Any

from engine import protocol as p
from engine.protocol import encode
from engine.scheduler import PLACEMENTS
from engine.scheduler.gmanager import GManager
from engine.scheduler.performance import Performance

SIZES = (10, 100, 1000, 10000)
REQUESTS = 100
"""running, of an instance on average"""
CROWDED_SHARE = 0.3
CROWDED_REQUESTS = 12
POOL_BLOCKS, BLOCK_TOKENS = 4000, 64
BEATS_PER_S, LOADS_PER_S = 5, 4
"""as engine/config.py and engine/roles.py have them"""
SAMPLES = 12
"""timed steps in a report"""
ROUNDS = 3
HOSTED = 8
"""instances on a host"""


def reports(instance: int, num_instances: int, chance: random.Random) -> tuple[bytes, bytes]:
    """One instance's Heartbeat and Load, encoded."""
    is_crowded = chance.random() < CROWDED_SHARE
    free = chance.randint(0, 40) if is_crowded else chance.randint(200, 1500)
    others = (REQUESTS - CROWDED_SHARE * CROWDED_REQUESTS) / (1 - CROWDED_SHARE)
    num_running = CROWDED_REQUESTS if is_crowded else round(others)
    mean = (POOL_BLOCKS - free) // num_running
    lent = {chance.randrange(num_instances): chance.randint(1, 40) for _ in range(2)}
    lent.pop(instance, None)
    debts = [p.Debt(debtor, blocks) for debtor, blocks in sorted(lent.items())]
    num_lent = 0 if is_crowded else sum(debt.num_blocks for debt in debts)
    beat = p.Heartbeat(
        instance=instance,
        epoch=1,
        address=f"tcp://10.0.{instance // 250}.{instance % 250}:41000",
        host=f"host{instance // HOSTED}",
        num_blocks=POOL_BLOCKS,
        num_free=free,
        num_lendable=max(0, free - 4),
        num_lent=num_lent,
        num_lend_cap=int(0.9 * POOL_BLOCKS),
        lent=[] if is_crowded else debts,
    )
    sequences, requests = [], []
    for number in range(num_running):
        blocks = max(2, round(mean * chance.uniform(0.2, 1.8)))
        output = chance.randint(1, 800)
        sequences.append(p.SequenceLoad(number, blocks, blocks - 1, 20.0, output))
        tokens = blocks * BLOCK_TOKENS
        holders = [p.Share(instance, blocks)]
        name = f"cmpl-{instance:05}{number:04}#1.1"
        requests.append(p.RequestLoad(name, "decode", tokens, output, tokens, 20.0, holders))
    waiting = chance.randint(1, 40) if is_crowded else 0
    samples = [p.StepSample(num_running, 200_000 + n, 0, 0.03 + n * 1e-5) for n in range(SAMPLES)]
    load = p.Load(
        instance,
        1,
        num_running,
        waiting,
        30 * waiting,
        sequences,
        0.03,
        samples=samples,
        requests=requests,
    )
    return encode(beat), encode(load)


def measure(name: str, num_instances: int) -> dict[str, Any]:
    chance = random.Random(num_instances)
    said = [reports(n, num_instances, chance) for n in range(num_instances)]
    kind = PLACEMENTS.load(name)
    planner = GManager(
        GManager.Config(plan_s=0.5),
        placement=kind(kind.Config()),
        cost=Performance(),
        block_tokens=BLOCK_TOKENS,
    )
    gc.collect()
    before = _resident_bytes()
    began = time.perf_counter()
    _hear(planner, said, 0.0)
    heard_s = time.perf_counter() - began
    memory = _resident_bytes() - before
    rounds, num_advice = [], 0
    gc.freeze()  # what was made for the benchmark is no garbage of the planner's
    for number in range(ROUNDS):
        began = time.perf_counter()
        num_advice += len(planner.tick(0.5 + 0.5 * number))
        rounds.append(time.perf_counter() - began)
    beat, load = (sum(len(one[at]) for one in said) / num_instances for at in (0, 1))
    return {
        "placement": name,
        "instances": num_instances,
        "requests": REQUESTS * num_instances,
        "round_ms": round(1e3 * statistics.median(rounds), 2),
        "advice": num_advice,
        "hearing_ms": round(1e3 * LOADS_PER_S * heard_s / num_instances, 3),
        "bytes_per_s": round(BEATS_PER_S * beat + LOADS_PER_S * load),
        "memory_mb": round(memory / 1e6, 1),
    }


def _hear(planner: GManager, said: list[tuple[bytes, bytes]], now: float) -> None:
    for beat, load in said:
        planner.handle(p.TO_PLANNER(beat), now)
        planner.handle(p.TO_PLANNER(load), now)


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
    print("placement  instances   requests     round     hearing 1 s      bytes/s    memory")
    for name in args.placements.split(","):
        of = [measure(name, size) for size in sizes]
        for one in of:
            print(
                f"{name:9}{one['instances']:11,}{one['requests']:11,}{one['round_ms']:8.1f} ms"
                f"{one['hearing_ms']:10.2f} ms/instance{one['bytes_per_s']:9,}"
                f"{one['memory_mb']:9.1f} MB",
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
