"""Those that are compared: each a function that runs all cases once, in processes of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.cases import CASES, NUM_STEPS
from bench.peers.weights import huggingface_folder
from engine.children import started

PEERS = Path(".peers")
"""where ``make peers`` puts them"""
Rates = dict[str, float]
"""tokens per second of each figure of the cases"""
Run = Callable[[], Rates]


class Absent(Exception):
    """A peer is not installed; says what to do."""


def ours(threads: int, settings: tuple[str, ...] = ()) -> Run:
    """One instance of ours, with settings of a recipe on top of those of bench.decode."""
    words = ["--threads", str(threads), "--rounds", "1", "--json", *settings]

    def run() -> Rates:
        said = output([sys.executable, "-m", "bench.decode", *words], dict(os.environ))
        facts: dict[str, Any] = json.loads(said.splitlines()[-1])
        return {name: facts[name]["tokens_per_s"] for name in figures()}

    return run


def vllm(threads: int) -> Run:
    if not list(PEERS.glob("lib/python*/site-packages/vllm")):
        raise Absent("vLLM is not there: run make peers first")
    cores = sorted(os.sched_getaffinity(0))[:threads]
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB: 90,000 tokens
        "VLLM_NO_USAGE_STATS": "1",
    }
    # Its manual asks for this; without it, it took twice the time.
    if openmp := list(PEERS.glob("lib/libiomp5.so")):
        environment["LD_PRELOAD"] = str(openmp[0].resolve())
    return partial(_offline, "vllm", str(PEERS / "bin/python"), threads, environment)


def transformers(threads: int) -> Run:
    if importlib.util.find_spec("transformers") is None:
        raise Absent("transformers is not there: pip install 'lendkv[transformers]'")
    return partial(_offline, "transformers", sys.executable, threads, {})


def figures() -> list[str]:
    """The names of all figures, in the order of the cases."""
    return [name for case in CASES for name in (case.prefill, case.decode) if name]


def output(command: list[str], environment: dict[str, str]) -> str:
    """What a program prints; a sentence instead when it fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, env=environment, text=True, **pipes) as process:
        said, complained = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {(complained or said)[-500:]}")
    return said


def peer_environment(**more: str) -> dict[str, str]:
    """Ours without OMP_WAIT_POLICY: a peer's threads shall wait as they like."""
    return {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | more


def _offline(peer: str, python: str, threads: int, environment: dict[str, str]) -> Rates:
    cases = json.dumps([(case.sequences, case.prompt, NUM_STEPS) for case in CASES])
    program = str(Path(__file__).with_name("offline.py"))
    command = [python, program, peer, str(huggingface_folder()), str(threads), cases]
    said = output(command, peer_environment(**environment))
    [line] = [line for line in said.splitlines() if line.startswith("[[")]  # others are its log
    rates = {}
    for case, (prefill, decode) in zip(CASES, json.loads(line), strict=True):
        rates[case.decode] = decode
        if case.prefill:
            rates[case.prefill] = prefill
    return rates
