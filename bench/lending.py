"""What lending half a context costs: ``python -m bench.lending [--json]``.

One sequence of 7,000 tokens decodes on instance 0, whose pool holds half of it (a quarter, with
three lenders); the rest lies in other instances' pools. A thread and a core for each instance.
Compared with an instance whose pool holds all of it, beside one that it owes nothing; runs in turn
(A B C A B C ...), each way of using lent memory forced. In a later part of each run the holder
decodes a batch of 8 of its own: printed is also how that batch slows down, which the two cores'
common memory alone makes it do.
"""

import argparse
import json
import statistics
import sys

from bench import fleet
from engine.client import Client
from engine.comm.control import ControlClient
from engine.measure.streams import Streams

PROMPT_TOKENS = 7000
IDLE_TOKENS, BUSY_TOKENS, ALONE_TOKENS = 64, 64, 64
"""measured: the sequence beside an idle holder, then beside a busy one; the holder's batch alone"""
SETTLING = 8
"""tokens that are not measured at the start of each part"""
MEANWHILE = 136
"""tokens that the sequence gets, at most, while the holder's batch reads its prompts"""
BATCH, BATCH_PROMPT = 8, 64
SETTINGS = (
    "threads=1",
    "model.path=smollm2",
    "model.dtype=bfloat16",
    "pool.block_tokens=64",
    "pool.lending.keep_blocks=0",
    "pool.lending.lend_fraction=1.0",
    "scheduler.max_step_tokens=512",
    "scheduler.hand_over=false",
    "placement.name=ledger",
)
HALF = ("instances=2", "pool.sizes=[63,160]")
CASES: dict[str, tuple[str, ...]] = {
    "all local": ("instances=2", "pool.num_blocks=160"),
    "half, query, shm": (*HALF, "transport.name=shm", "attention.options.way=query"),
    "half, mapped, shm": (*HALF, "transport.name=shm", "attention.options.way=mapped"),
    "half, query, tcp": (*HALF, "transport.name=tcp", "attention.options.way=query"),
    "three quarters, query, shm": (
        # the cap spreads the loan over all three, and leaves room for the holder's own batch
        *("instances=4", "pool.sizes=[30,90,90,90]", "pool.lending.lend_fraction=0.36"),
        *("transport.name=shm", "attention.options.way=query"),
    ),
}
LIMITS = {
    # case: (at most so many times the sequence's time a token, and the busy holder's)
    "half, query, shm": (0.95, 1.3),
    "half, mapped, shm": (1.03, 1.1),
    "half, query, tcp": (1.15, None),
    "three quarters, query, shm": (1.25, None),
}


def drive(steps: dict[int, ControlClient], client: Client, arguments: fleet.Facts) -> fleet.Facts:
    streams = Streams(steps)
    most = SETTLING + IDLE_TOKENS + (MEANWHILE + BUSY_TOKENS if len(steps) > 1 else 0)
    long = streams.submit(0, "long", PROMPT_TOKENS, most)
    idle = SETTLING + IDLE_TOKENS
    streams.until(long, tokens=idle)
    facts: fleet.Facts = {"idle_s": long.s_per_token(SETTLING, idle - 1)}
    if len(steps) > 1:
        own = [streams.submit(1, f"own {i}", BATCH_PROMPT, 2000) for i in range(BATCH)]
        streams.until(*own, tokens=SETTLING)
        busy_from, own_from = len(long.times), len(own[0].times)
        streams.until(long, tokens=most)
        facts["busy_s"] = long.s_per_token(busy_from, most - 1)
        own_to = len(own[0].times)
        facts["holder_busy_s"] = own[0].s_per_token(own_from, own_to - 1)
        streams.until(own[0], tokens=own_to + SETTLING + ALONE_TOKENS)
        facts["holder_alone_s"] = own[0].s_per_token(own_to + SETTLING, -1 + len(own[0].times))
        assert long.report is not None
        lent = sum(holder != 0 for holder in long.report.holders)
        facts["share_lent"] = lent / len(long.report.holders)
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default=";".join(CASES), help="separated by semicolons")
    args, overrides = parser.parse_known_args()
    names = args.cases.split(";")
    runs: dict[str, list[fleet.Facts]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            facts = fleet.run("bench.lending:drive", [*SETTINGS, *CASES[name], *overrides])
            runs[name].append(facts)
            print(f"{name:27} {json.dumps(facts)}", flush=True)
    base = [run["idle_s"] for run in runs[names[0]]]
    print(f"{names[0]:27} {1e3 * statistics.median(base):6.2f} ms a token")
    ratios: dict[str, dict[str, float]] = {}
    for name in names[1:]:
        found = [run["idle_s"] / of for run, of in zip(runs[name], base, strict=True)]
        busy = [run["busy_s"] / of for run, of in zip(runs[name], base, strict=True)]
        holder = [run["holder_busy_s"] / run["holder_alone_s"] for run in runs[name]]
        ratios[name] = {
            "idle": statistics.median(found),
            "busy": statistics.median(busy),
            "holder": statistics.median(holder),
        }
        wanted, of_holder = LIMITS.get(name, (None, None))
        print(
            f"{name:27} {ratios[name]['idle']:.2f} x ({min(found):.2f} to {max(found):.2f}; wanted "
            f"{wanted}), {ratios[name]['busy']:.2f} x beside a busy holder, whose own step is "
            f"{ratios[name]['holder']:.2f} x ({min(holder):.2f} to {max(holder):.2f}; wanted "
            f"{of_holder}); lent {100 * runs[name][0]['share_lent']:.0f} %"
        )
    if args.json:
        print(json.dumps({"ratios": ratios, "runs": runs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
