"""StagingCache: local copies of lent rBlocks (way ``copy``): fetched once, then read locally.

The holder keeps the authoritative block, so a copy may be dropped at any time.
"""

import time
from collections import OrderedDict

from engine.attention.lenders import Lenders
from engine.core import BlockRef
from engine.errors import ConfigError
from engine.memory.base import MemoryPool
from engine.protocol import Data, Read


class StagingCache:
    """Copies in blocks of the own pool that were drawn for staging; least recently used goes."""

    def __init__(self, lenders: Lenders, pool: MemoryPool, num_blocks: int) -> None:
        """``num_blocks`` will be added; refuses more than the pool can do without."""
        if num_blocks > pool.num_blocks // 2:
            raise ConfigError(
                f"attention.options.staging_blocks={num_blocks} is more than half of the pool's "
                f"{pool.num_blocks} blocks; lower it or raise pool.num_blocks"
            )
        self._lenders = lenders
        self._pool = pool
        self._free: list[int] = []
        self._copies: OrderedDict[BlockRef, int] = OrderedDict()
        self._missing: dict[tuple[int, int, int], tuple[int, dict[int, int]]] = {}
        """(instance, loan, slot) -> where to, and the parts under way: offset -> bytes"""
        lenders.on_data = self._on_data

    def add(self, blocks: list[int]) -> None:
        """More room: blocks drawn for staging."""
        self._free.extend(blocks)

    def forget(self, instance: int) -> None:
        """The instance is gone; when it comes back it may count its loans from 1 again."""
        for ref in [ref for ref in self._copies if ref.instance == instance]:
            self._free.append(self._copies.pop(ref))

    def fetch(self, refs: list[BlockRef], wait_s: float) -> dict[BlockRef, int]:
        """Local blocks with copies of ``refs``, as many as there is room for and time to fetch."""
        have = {ref: self._copies[ref] for ref in refs if ref in self._copies}
        for ref in have:
            self._copies.move_to_end(ref)
        asked: dict[BlockRef, int] = {}
        wanted = set(refs)
        for ref in refs:
            if ref in have or ref in asked:
                continue
            block = self._take(wanted)
            if block is None:
                break
            asked[ref] = block
            self._ask(ref, block)
        deadline = time.monotonic() + wait_s
        while self._missing and (left := deadline - time.monotonic()) > 0:
            if not self._lenders.pump(left, {ref.instance for ref in asked}):
                break
        for ref, block in asked.items():
            if self._missing.pop((ref.instance, ref.loan, ref.slot), None) is None:
                self._copies[ref] = have[ref] = block
            else:
                self._free.append(block)
        return have

    def _take(self, wanted: set[BlockRef]) -> int | None:
        if self._free:
            return self._free.pop()
        for ref in self._copies:
            if ref not in wanted:
                return self._copies.pop(ref)
        return None

    def _ask(self, ref: BlockRef, block: int) -> None:
        size = self._pool.layout.block_bytes
        part_bytes = self._lenders.max_body_bytes
        parts = {at: min(part_bytes, size - at) for at in range(0, size, part_bytes)}
        self._missing[ref.instance, ref.loan, ref.slot] = (block, dict(parts))
        for offset, num_bytes in parts.items():
            self._lenders.send(ref.instance, Read(ref.loan, ref.slot, offset, num_bytes))

    def _on_data(self, instance: int, message: Data, body: memoryview) -> None:
        key = (instance, message.loan, message.slot)
        block, parts = self._missing.get(key, (0, {}))
        num_bytes = parts.pop(message.offset, None)
        if num_bytes is None:
            return  # late: the fetch was given up
        if len(body) != num_bytes:
            self._lenders.drop(instance, f"block data of {len(body)} bytes, not {num_bytes}")
            parts[message.offset] = num_bytes  # never whole
            return
        self._pool.block(block)[message.offset : message.offset + num_bytes] = body
        if not parts:
            del self._missing[key]
