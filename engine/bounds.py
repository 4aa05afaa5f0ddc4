"""Bounds: what a single value of a configuration may be, whatever the others are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import Config

COUNT = (1 << 31) - 1
SECONDS = 1e9
PORT = (0, 65535)

BOUNDS: dict[str, tuple[float, float]] = {
    "instances": (1, COUNT),
    "tp": (1, COUNT),
    "threads": (1, 4096),
    "pool.num_blocks": (2, COUNT),
    "pool.block_tokens": (1, 256),
    "scheduler.max_step_tokens": (1, COUNT),
    "scheduler.max_num_seqs": (1, COUNT),
    "scheduler.grow_blocks": (1, COUNT),
    "scheduler.lease_s": (0.001, SECONDS),
    "scheduler.retry_s": (0.001, SECONDS),
    "scheduler.sure_s": (0, SECONDS),
    "scheduler.max_tpot_s": (0, SECONDS),
    "planner.max_offers": (1, COUNT),
    "planner.stale_s": (0.001, SECONDS),
    "planner.plan_s": (0, SECONDS),
    "cluster.port": PORT,
    "cluster.heartbeat_s": (0.001, SECONDS),
    "cluster.start_s": (0.001, SECONDS),
    "generate.max_tokens": (1, COUNT),
    "generate.temperature": (0, 100),
    "generate.top_k": (-1, COUNT),
    "generate.seed": (-(1 << 63), (1 << 63) - 1),
    "serve.port": PORT,
    "serve.instance_port": PORT,
    "serve.max_body_bytes": (1, 1 << 40),
    "serve.idle_s": (0.001, SECONDS),
    "serve.drain_s": (0, SECONDS),
    "serve.max_queued_requests": (0, COUNT),
    "serve.max_queued_tokens": (0, 1 << 40),
    "chaos.seconds": (0.001, SECONDS),
    "chaos.every_s": (0.001, SECONDS),
    "chaos.contexts": (1, COUNT),
    "chaos.long_tokens": (1, COUNT),
    "chaos.short_tokens": (1, COUNT),
    "chaos.max_tokens": (1, COUNT),
}
"""by dotted name: the least and the most, both allowed"""


def unbounded(config: Config) -> list[str]:
    """What is wrong with single values, with what is allowed."""
    if problems := endless(config):
        return problems
    for name, (low, high) in BOUNDS.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if not low <= value <= high:
            problems.append(f"{name} is {value}; {low:,.15g} to {high:,.15g} is allowed")
    if not 0 < config.generate.top_p <= 1:
        problems.append(f"generate.top_p is {config.generate.top_p}; above 0, to 1, is allowed")
    return problems


def endless(config: object) -> list[str]:
    """Numbers of a dataclass, at any depth, that are not finite: nothing can be counted by them."""
    return [
        f"{name} is {value}; a finite number is wanted"
        for name, value in _floats(config, "")
        if not math.isfinite(value)
    ]


def _floats(value: object, name: str) -> Iterator[tuple[str, float]]:
    match value:
        case float():
            yield name, value
        case list():
            for at, one in enumerate(value):
                yield from _floats(one, f"{name}[{at}]")
        case dict():
            for key, one in value.items():
                yield from _floats(one, f"{name}.{key}".lstrip("."))
        case _ if is_dataclass(value):
            for field in fields(value):
                yield from _floats(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
