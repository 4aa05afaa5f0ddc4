"""Cut: the part of each weight that a tp rank has (see ``layout.py`` for their names and rows)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.model.config import LlamaConfig
from engine.model.shard import Shard

_ROWS = {"embed", "head", "qkv", "qkv_bias", "qk_norm", "gate_up"}
_COLUMNS = {"out", "down"}


def is_cut(name: str) -> bool:
    """Whether each rank has another part of it; the others all ranks have whole."""
    return _kind(name) in _ROWS | _COLUMNS


def cut(name: str, weight: Tensor, whole: LlamaConfig, shard: Shard) -> Tensor:
    """The rank's part of the weight of this name, contiguous; a view where there is one."""
    kind = _kind(name)
    if kind in _COLUMNS:
        part = _columns(kind, whole, shard)
        return weight[:, part.start : part.stop].contiguous()
    if kind in _ROWS:
        rows = [weight[part.start : part.stop] for part in _rows(kind, whole, shard)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)
    return weight


def shape_of_cut(
    name: str, shape: tuple[int, ...], whole: LlamaConfig, shard: Shard
) -> tuple[int, ...]:
    """The shape of ``cut``'s result."""
    kind = _kind(name)
    if kind in _COLUMNS:
        return shape[0], len(_columns(kind, whole, shard))
    if kind in _ROWS:
        return sum(map(len, _rows(kind, whole, shard))), *shape[1:]
    return shape


def name_of(name: str, rank: int) -> str:
    """What a rank's part is called where those of all ranks lie together."""
    return f"{name}/{rank}"


def of_rank(weights: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """A rank's weights among those of all, by the model's names."""
    suffix = name_of("", rank)
    return {
        name.removesuffix(suffix): weight
        for name, weight in weights.items()
        if name.endswith(suffix) or "/" not in name
    }


def _columns(kind: str, whole: LlamaConfig, shard: Shard) -> range:
    return shard.mlp if kind == "down" else _scaled(shard.heads, whole.head_dim)


def _rows(kind: str, whole: LlamaConfig, shard: Shard) -> list[range]:
    dim, heads, kv_heads = whole.head_dim, whole.num_heads, whole.num_kv_heads
    if kind in ("qkv", "qkv_bias"):
        return [
            _scaled(shard.heads, dim),
            _scaled(shard.kv_heads, dim, heads * dim),
            _scaled(shard.kv_heads, dim, (heads + kv_heads) * dim),
        ]
    if kind == "qk_norm":
        return [shard.heads, _scaled(shard.kv_heads, 1, heads)]
    if kind == "gate_up":
        mlp = shard.mlp
        return [mlp, range(mlp.start + whole.mlp_size, mlp.stop + whole.mlp_size)]
    return [shard.vocab]


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _scaled(heads: range, rows: int, start: int = 0) -> range:
    """The rows of these heads, each of so many, in a matrix where the first begins at ``start``."""
    return range(start + heads.start * rows, start + heads.stop * rows)
