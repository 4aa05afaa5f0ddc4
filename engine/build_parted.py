"""The part of the composition root for pools that lie apart: each tp rank's heads on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.config import Config
from engine.core import BlockLayout
from engine.memory.base import MemoryPool
from engine.model.checkpoint import describe
from engine.model.config import LlamaConfig
from engine.model.shard import Shard

if TYPE_CHECKING:
    from torch import Tensor

    from engine.memory.parted import PartedPool


def build_parted_pool(config: Config, layout: BlockLayout, places: Sequence[str]) -> PartedPool:
    """The recipe's pool, cut for the tp ranks that compute on these devices."""
    from engine.memory.parted import PartedPool

    heads = [_kv_heads(config, rank) for rank in range(config.tp)]
    parts = list(zip(heads, places, strict=True))
    return PartedPool(layout=layout, num_blocks=config.pool.num_blocks, parts=parts)


def build_part(config: Config, layout: BlockLayout, rank: int, bytes_PB: Tensor) -> MemoryPool:
    """A tp rank's part of such a pool, whose blocks rank 0 has shown to it."""
    from engine.memory.device import DevicePool

    return DevicePool(
        DevicePool.Config(device=config.pool.options["device"]),
        layout=replace(layout, kv_heads=len(_kv_heads(config, rank))),
        num_blocks=config.pool.num_blocks,
        bytes_PB=bytes_PB,
    )


def _kv_heads(config: Config, rank: int) -> range:
    model = describe(config.model.path)
    assert isinstance(model, LlamaConfig), "checked with the configuration"
    return Shard.of(model, rank, config.tp).kv_heads
