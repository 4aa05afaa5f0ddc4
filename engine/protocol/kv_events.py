"""KV events as vLLM publishes them since mid-2026: a batch is an array, an event a tagged map."""

from msgspec import Struct


class BlockStored(Struct, tag=True, omit_defaults=True, frozen=True, gc=False):
    """Blocks of consecutive tokens are there from now on."""

    block_hashes: list[bytes]
    parent_block_hash: bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    locality: str | None = None
    """LOCAL, or REMOTE: in another instance's memory"""
    ownership: str | None = None
    """of a REMOTE one: the instance that holds it"""


class BlockRemoved(Struct, tag=True, omit_defaults=True, frozen=True, gc=False):
    block_hashes: list[bytes]
    medium: str | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(Struct, tag=True, omit_defaults=True, frozen=True, gc=False):
    """Nothing of what was said before holds any more."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class KvBatch(Struct, array_like=True, omit_defaults=True, frozen=True, gc=False):
    ts: float
    events: list[KvEvent]
    data_parallel_rank: int | None = None
    """the instance"""
