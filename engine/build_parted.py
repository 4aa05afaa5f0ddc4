"""The part of the composition root for pools that lie apart: each tp rank's heads on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.build import build_pool
from engine.config import Config
from engine.core import BlockLayout
from engine.memory.base import MemoryPool
from engine.memory.parted import PartedPool
from engine.model.checkpoint import describe
from engine.model.config import LlamaConfig
from engine.model.shard import Shard


def build_parted_pool(layout: BlockLayout, ranks: Sequence[Config]) -> PartedPool:
    """The recipe's pool, cut for the tp ranks that have these configurations; others than rank 0
    are to be shown their parts. Raises ConfigError where there is too little memory."""
    parts = [
        (heads, build_pool(config, replace(layout, kv_heads=len(heads)), shared=True))
        for rank, config in enumerate(ranks)
        for heads in [_kv_heads(config, rank)]
    ]
    return PartedPool(layout=layout, num_blocks=parts[0][1].num_blocks, parts=parts)


def build_part(config: Config, layout: BlockLayout, rank: int, shown: object) -> MemoryPool:
    """A tp rank's part of such a pool, which rank 0 has shown to it."""
    own = replace(layout, kv_heads=len(_kv_heads(config, rank)))
    return build_pool(config, own, shown=shown)


def _kv_heads(config: Config, rank: int) -> range:
    model = describe(config.model.path)
    assert isinstance(model, LlamaConfig), "checked with the configuration"
    return Shard.of(model, rank, config.tp).kv_heads
