"""The longest prompt that N instances of B blocks serve: ``python -m bench.context [--json]``.

Real processes, a tiny random model. Lending caps are off, and instance 0 gets one prompt at a time,
each a block shorter than the last, until one is answered: so the one found is the longest. Its
bound is all the cluster's blocks. The owner keeps a few free for keys on their way to creditors,
those of one step and one more, which is why steps are as short as a block. The tokens are compared
with those of one instance whose pool is N times as big. Counts are not times: one run decides.
"""

import argparse
import json
import random
import sys
import time
from typing import Any

from bench import fleet
from bench.tiny import VOCABULARY, tiny_model
from engine.client import Client
from engine.comm.control import ControlClient
from engine.config import load
from engine.core import Request, SamplingParams
from engine.llm import LLM
from engine.protocol import Abort, Failed, Progress, Report, Submit, Tokens

BLOCK_TOKENS = 16
OUTPUT_TOKENS = 4
SAMPLING = SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True)
SETTINGS = (
    "threads=1",
    "model.dtype=float32",
    f"pool.block_tokens={BLOCK_TOKENS}",
    "pool.lending.lend_fraction=1",
    "pool.lending.keep_blocks=0",
    f"scheduler.max_step_tokens={BLOCK_TOKENS}",
    "scheduler.grow_blocks=1",
    "scheduler.sure_s=0.5",
)
SILENT_S = 20.0
"""a request from which nothing is heard for so long is not served"""
WORST = 0.8
"""of the cluster's blocks: where the search ends"""


def prompt_of(num_blocks: int) -> list[int]:
    """A prompt whose context, with its answer, fills so many blocks."""
    numbers = random.Random(num_blocks)
    return [numbers.randrange(VOCABULARY) for _ in range(num_blocks * BLOCK_TOKENS - OUTPUT_TOKENS)]


def drive(steps: dict[int, ControlClient], client: Client, arguments: fleet.Facts) -> fleet.Facts:
    """Ever shorter prompts until one is answered."""
    most = arguments["blocks"]
    for num_blocks in range(most, int(WORST * most), -1):
        began = time.monotonic()
        token_ids = _ask(steps[0], str(num_blocks), prompt_of(num_blocks))
        if token_ids:
            seconds = round(time.monotonic() - began, 1)
            return {"blocks": num_blocks, "seconds": seconds, "token_ids": token_ids}
    return {"blocks": 0, "seconds": 0.0, "token_ids": []}


def _ask(step: ControlClient, name: str, prompt_ids: list[int]) -> list[int]:
    """The answer; empty when the request is refused or gets nowhere."""
    request = Request(request_id=name, prompt_ids=tuple(prompt_ids), sampling=SAMPLING, stays=True)
    step.send(Submit(request))
    token_ids: list[int] = []
    heard = time.monotonic()
    while time.monotonic() - heard < SILENT_S:
        for message in step.receive(0.1):
            if getattr(message, "request_id", "") != name:
                continue
            heard = time.monotonic()
            match message:
                case Tokens():
                    token_ids += message.token_ids
                case Failed():
                    return []
                case Report():
                    return token_ids
                case Progress():
                    pass
    step.send(Abort(name))
    return []


def single(blocks: int, settings: list[str], prompt_ids: list[int]) -> list[int]:
    """The tokens of one instance that holds all by itself."""
    llm = LLM(load(None, [*settings, f"pool.num_blocks={blocks + 1}", "placement.name=local_only"]))
    (answer,) = llm.generate([prompt_ids], SAMPLING)
    return answer.token_ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--instances", default="1,2,4,8,19")
    parser.add_argument("--blocks", type=int, default=64, help="of each instance's pool")
    args, overrides = parser.parse_known_args()
    settings = [*SETTINGS, f"model.path={tiny_model()}", *overrides]
    print(f"pools of {args.blocks} blocks of {BLOCK_TOKENS} tokens")
    found: dict[str, Any] = {}
    for count in (int(n) for n in args.instances.split(",")):
        cluster = [*settings, f"instances={count}", f"pool.num_blocks={args.blocks}"]
        most = count * args.blocks
        last = fleet.run("bench.context:drive", cluster, blocks=most)
        blocks, token_ids = last["blocks"], last.pop("token_ids")
        last["of_all_blocks"] = round(blocks / most, 4)
        last["times_one_pool"] = round(blocks / args.blocks, 2)
        last["equal_to_single"] = blocks > 0 and token_ids == single(
            blocks, settings, prompt_of(blocks)
        )
        found[str(count)] = last
        print(
            f"{count:2} instances: {blocks:5} of {most:5} blocks ({blocks * BLOCK_TOKENS} tokens) "
            f"= {last['of_all_blocks']:.3f} = {last['times_one_pool']:.2f} x one pool, "
            f"in {last['seconds']} s, tokens as one big instance's: {last['equal_to_single']}",
            flush=True,
        )
    if args.json:
        print(json.dumps({"pool_blocks": args.blocks, "instances": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
