"""Sizing: how many blocks a pool has where a recipe gives a share of the host's memory instead.

The share is for all that this host's instances have: their pools, one copy of the weights, and what
their processes need besides. That is measured, in a child that loads the model as a step does.
"""

import dataclasses
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.build import layout_of
from engine.children import Child, fork
from engine.combinations import check
from engine.config import Config
from engine.core import BlockLayout, ModelShape
from engine.errors import ConfigError, LendKVError
from engine.memory.base import region_bytes
from engine.memory.room import parse_size, total_bytes

MAPS = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Bytes that instances need besides their pools."""

    weights: int
    """mapped, and shared by all on the host"""
    runtime: int
    """of each instance: its steps with the model ready, and its pool's process"""


def sized(config: Config, shape: ModelShape, num_here: int) -> Config:
    """With ``pool.num_blocks`` from ``pool.memory``; ``num_here`` instances share this host.

    Raises ConfigError when the share is too small.
    """
    if not config.pool.memory:
        return config
    layout = layout_of(config, shape)
    num_blocks = blocks_within(config.pool.memory, layout, measure(config), num_here)
    found = dataclasses.replace(
        config, pool=dataclasses.replace(config.pool, num_blocks=num_blocks)
    )
    if problems := check(found):
        raise ConfigError(*problems)
    return found


def blocks_within(
    share: str, layout: BlockLayout, footprint: Footprint, num_here: int, total: int | None = None
) -> int:
    """Blocks of each of ``num_here`` pools; ``total``: the host's bytes, as found if left out."""
    there = total_bytes() if total is None else total
    wanted = parse_size(share, there)
    if there is not None and wanted > there:
        raise ConfigError(f"pool.memory={share} is more than the {there:,} bytes that are here")
    left = wanted - footprint.weights - num_here * footprint.runtime
    num_blocks = max(0, left) // num_here // layout.block_bytes
    while num_blocks and num_here * region_bytes(layout, num_blocks) > left:
        num_blocks -= 1  # the header of generations
    if num_blocks < 2:
        raise ConfigError(
            f"pool.memory={share} is {wanted:,} bytes; the weights take {footprint.weights:,} and "
            f"each of {num_here} instances {footprint.runtime:,} besides, so nothing is left for "
            f"blocks of {layout.block_bytes:,} bytes: raise it, or run fewer instances here"
        )
    return num_blocks


def measure(config: Config) -> Footprint:
    """What a step of this configuration needs. Raises the error that a step would."""
    child = fork("measure", lambda pipe: _load(pipe, config))
    said = _last_words(child)
    return Footprint(weights=said["weights"], runtime=said["runtime"])


def advice(config: Config, shape: ModelShape) -> str:
    """What the pools hold, in a sentence; host memory, the last resort, is left out."""
    pool, lending = config.pool, config.pool.lending
    sizes = pool.sizes or [pool.num_blocks] * config.instances
    caps = [max(0, min(int(lending.lend_fraction * n), n - lending.keep_blocks)) for n in sizes]
    own = sizes[0] * pool.block_tokens
    together = own + (sum(caps) - caps[0]) * pool.block_tokens
    size = sizes[0] * layout_of(config, shape).block_bytes
    text = f"a pool of {sizes[0]} blocks of {pool.block_tokens} tokens ({size / 2**20:,.0f} MiB): "
    text += f"contexts of up to {min(own, shape.max_positions):,} tokens alone"
    if config.instances > 1:
        text += f", {min(together, shape.max_positions):,} with what the others may lend"
    if own > shape.max_positions:
        text += f"; {own // shape.max_positions} of the longest that the model takes at once"
    return text


def _load(pipe: Connection, config: Config) -> None:
    from engine.build_attention import load_model

    bare = _private_bytes()
    if config.cluster.donor:  # it runs nothing
        pipe.send({"weights": 0, "runtime": bare})
        return
    checkpoint: Any = load_model(config)
    first = SimpleNamespace(rank=0, size=config.tp)
    ready = checkpoint.model if config.tp == 1 else checkpoint.part(first)
    assert ready is not None
    weights = getattr(checkpoint, "weights", {}).values()  # others are the process's own
    mapped = sum(weight.numel() * weight.element_size() for weight in weights)
    pipe.send({"weights": mapped, "runtime": config.tp * _private_bytes() + bare})


def _private_bytes() -> int:
    """Memory that is this process's alone."""
    private = 0
    for line in MAPS.read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            private += int(line.split()[1]) * 1024
    return private


def _last_words(child: Child) -> dict[str, int]:
    while child.poll() is None:
        time.sleep(0.01)
    said: dict[str, int] = {}
    for message in child.messages():
        if "error" in message:
            raise LendKVError(message["error"])
        said |= message
    child.pipe.close()
    if not said:
        raise LendKVError(f"the model cannot be measured: status {child.status}")
    return said
