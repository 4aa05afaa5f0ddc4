"""Shard: the part of a model that one of an instance's tp ranks runs. No torch.

Query heads, the rows of the MLP and the vocabulary are dealt out as evenly as whole ones can be.
KV heads stay with the query heads that read them; where there are fewer than ranks, neighbours have
the same one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.model.config import LlamaConfig

if TYPE_CHECKING:
    from engine.model.transformers_checkpoint import TransformersConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Of rank ``rank``; ranges are consecutive, and those of all ranks in order make the whole."""

    rank: int
    heads: range
    """query heads"""
    kv_heads: range
    shares_kv: bool
    """its KV head is another rank's, too"""
    mlp: range
    vocab: range

    @classmethod
    def of(cls, config: LlamaConfig, rank: int, size: int) -> Shard:
        """Raises ConfigError where a rank would have nothing to do."""
        require_shards(config, size)
        group, kv_heads = config.num_heads // config.num_kv_heads, config.num_kv_heads
        if kv_heads >= size:
            kv = deal(kv_heads, size)[rank]
            heads, shares = range(kv.start * group, kv.stop * group), False
        else:
            head, ranks = next(
                (head, ranks) for head, ranks in enumerate(deal(size, kv_heads)) if rank in ranks
            )
            own = deal(group, len(ranks))[rank - ranks.start]
            heads = range(head * group + own.start, head * group + own.stop)
            kv, shares = range(head, head + 1), len(ranks) > 1
        return cls(
            rank=rank,
            heads=heads,
            kv_heads=kv,
            shares_kv=shares,
            mlp=deal(config.mlp_size, size)[rank],
            vocab=deal(config.vocab_size, size)[rank],
        )

    def config(self, whole: LlamaConfig) -> LlamaConfig:
        """What this rank's layers look like; ``vocab_size`` is still that of all."""
        return replace(
            whole,
            num_heads=len(self.heads),
            num_kv_heads=len(self.kv_heads),
            mlp_size=len(self.mlp),
        )


def require_shards(config: LlamaConfig | TransformersConfig, size: int) -> None:
    """Raises ConfigError where there are too few heads, rows or tokens for so many ranks."""
    shape = config.shape
    counts = {
        "query heads": shape.num_heads,
        "MLP rows": getattr(config, "mlp_size", size),  # other libraries' models are not split
        "tokens in its vocabulary": shape.vocab_size,
    }
    for name, count in counts.items():
        if count < size:
            raise ConfigError(
                f"tp={size}: the model has {count} {name}, and each rank needs one at least; "
                f"set tp to {count} or less"
            )


def deal(count: int, parts: int) -> list[range]:
    """Consecutive ranges of ``count`` things, as even as whole ones can be; the first are longer.

    >>> deal(4, 3)
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    each, more = divmod(count, parts)
    starts = [part * each + min(part, more) for part in range(parts + 1)]
    return [range(a, b) for a, b in zip(starts, starts[1:], strict=False)]
