"""Workload: requests with their arrivals, replayed from a trace or drawn."""

import csv
import gzip
import json
import math
import random
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from engine.errors import ConfigError
from engine.sim.serving.config import WorkloadConfig


class Arrival(NamedTuple):
    at: float
    prompt_tokens: int
    output_tokens: int
    instance: int | None = None
    """that is asked by itself; None: the gateway chooses one"""


def arrivals(config: WorkloadConfig, seed: int) -> list[Arrival]:
    """In the order of their time, the first at 0; of one moment as drawn. Raises ConfigError."""
    chance = random.Random(seed)
    rows = _replayed(config.trace) if config.trace else _drawn(config, chance)
    most = config.max_tokens
    fitting = (row for row in rows if not most or row.prompt_tokens + row.output_tokens <= most)
    taken = sorted(islice(fitting, config.requests), key=lambda row: row.at)
    if not taken:
        raise ConfigError("workload: not one request is left; see requests and max_tokens")
    if config.rate > 0:
        now, spread = 0.0, []
        for row in taken:
            spread.append(row._replace(at=now))
            now += chance.expovariate(config.rate)
        return spread
    return [row._replace(at=row.at - taken[0].at) for row in taken]


def _drawn(config: WorkloadConfig, chance: random.Random) -> Iterator[Arrival]:
    """Without an arrival time."""

    def length(bounds: list[int]) -> int:
        low, high = bounds
        drawn = float(low * (high / low) ** chance.random())
        return max(low, min(high, round(drawn)))

    context = config.context_tokens
    first = context or config.prompt_tokens
    for bounds in (first, config.output_tokens):
        if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
            raise ConfigError(f"workload: [from, to] of at least 1 token wanted, not {bounds}")
    while True:
        prompt, output = length(first), length(config.output_tokens)
        if context:
            output = max(1, min(output, prompt // 2))
            prompt = max(1, prompt - output)
        yield Arrival(0.0, prompt, output)


def _replayed(path: str) -> Iterator[Arrival]:
    try:
        with _opened(Path(path)) as file:
            rows = map(json.loads, file) if ".jsonl" in path else csv.DictReader(file)
            for row in rows:
                output = max(1, int(row["output_tokens"]))
                at, prompt = float(row.get("arrival_s", 0.0)), max(1, int(row["prompt_tokens"]))
                if not math.isfinite(at):
                    raise ValueError(f"arrival_s is {at}")
                to = row.get("instance")
                yield Arrival(at, prompt, output, None if to in (None, "") else int(to))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"workload.trace: {reason}: {path}") from error
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise ConfigError(
            f"workload.trace {path}: each row needs prompt_tokens and output_tokens, and may have "
            f"arrival_s and instance; this went wrong: {error!r}"
        ) from error


def _opened(path: Path) -> TextIO:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
