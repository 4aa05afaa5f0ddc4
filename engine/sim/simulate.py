"""The verb ``simulate``. Faults: many histories side by side; a failing one is shrunk and replayed.

A recipe with ``mode: performance`` is run by ``serving/``.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection

from engine.children import Child, fork, stop
from engine.errors import ConfigError, LendKVError
from engine.scheduler import PLACEMENTS
from engine.sim import history
from engine.sim.config import KINDS, SimConfig
from engine.sim.history import Found
from engine.sim.recipes import load_as, mode_of
from engine.sim.replay import replay, replayed
from engine.sim.report import as_json, as_text, merge
from engine.sim.serving import run as performance

SHRINK_S = 60.0
"""of real time: what is found by then is said"""


def simulate(recipe: str | None, overrides: Sequence[str], *, json_only: bool, trace: bool) -> int:
    """The exit status: 1 when a promise was broken. Raises ConfigError."""
    mode = mode_of(recipe, overrides)
    if mode == "performance":
        return performance.simulate(recipe, overrides, json_only=json_only)
    config = load(recipe, overrides)
    if config.replay:
        again = replay(config.replay)
        print(json.dumps(again) if json_only else replayed(again))
        return 1 if again["differs_at"] is not None else 0
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    began = time.monotonic()
    if trace:
        found = [history.run(config, seed, trace=True) for seed in seeds]
        for one in found:
            print("\n".join(one.trace))
    else:
        found = []
        try:
            for one in _run(config, seeds, quiet=json_only):
                found.append(one)
        except KeyboardInterrupt:
            if found and not json_only:
                print(f"Interrupted: {len(found)} of {len(seeds)} histories were done by then.")
                print(as_text(merge(found), time.monotonic() - began))
            raise
    report = merge(found)
    print(as_json(report) if json_only else as_text(report, time.monotonic() - began))
    if report["failing_seeds"]:
        seed = report["failing_seeds"][0]
        name = recipe or ""
        print(f"replay: lendkv simulate {name} first_seed={seed} seeds=1 --trace", file=sys.stderr)
        print(shrink(config, seed), file=sys.stderr)
        return 1
    return 0


def load(recipe: str | None, overrides: Sequence[str]) -> SimConfig:
    """Defaults < recipe < ``key=value``, checked."""
    config = load_as(SimConfig, recipe, overrides)
    for name in config.placements:
        PLACEMENTS.load(name)
    problems = [
        f"kinds: {kind!r} is none of {', '.join(KINDS)}"
        for kind in config.kinds
        if kind not in KINDS
    ]
    if config.instances < 3 or config.seeds < 1 or len(config.pool_blocks) < 2:
        problems.append("simulate needs 3 instances, 1 seed and 2 pool sizes at least")
    if config.workers < 1:
        problems.append(f"workers is {config.workers}; 1 and more are allowed")
    if config.period_s and not config.pause_s < config.period_s:
        problems.append(f"pause_s must be shorter than period_s={config.period_s:g}")
    if problems:
        raise ConfigError(*problems)
    return config


def shrink(config: SimConfig, seed: int) -> str:
    """Leave out faults and requests as long as the history still fails; says what remains."""
    until = time.monotonic() + SHRINK_S
    faults, requests = set(range(config.faults)), set(range(config.requests))
    for kept, all_of in ((faults, config.faults), (requests, config.requests)):
        size = max(1, all_of // 2)
        while size:
            for start in range(0, all_of, size):
                without = kept & set(range(start, start + size))
                if not without or time.monotonic() > until:
                    continue
                kept -= without
                found = history.run(
                    config,
                    seed,
                    skip_faults=frozenset(range(config.faults)) - faults,
                    skip_requests=frozenset(range(config.requests)) - requests,
                )
                if found.is_clean:
                    kept |= without
            size //= 2
    return f"still fails with faults {sorted(faults)} and requests {sorted(requests)} alone"


def _run(config: SimConfig, seeds: range, *, quiet: bool) -> Iterator[Found]:
    """In the order of the seeds, which workers have in turn."""
    workers: list[Child] = []
    try:
        for first in range(config.workers)[: len(seeds)]:
            those = seeds[first :: config.workers]
            workers.append(fork("worker", partial(_histories, config, those)))
        for number in range(len(seeds)):
            said = workers[number % len(workers)].pipe.recv()
            if not isinstance(said, Found):
                raise LendKVError(said["error"])
            if not quiet and sys.stderr.isatty():
                print(f"\r{number + 1} of {len(seeds)} histories", end="", file=sys.stderr)
            yield said
    finally:
        stop(workers, patience_s=0.0)


def _histories(config: SimConfig, seeds: range, pipe: Connection) -> None:
    for seed in seeds:
        pipe.send(history.run(config, seed))
