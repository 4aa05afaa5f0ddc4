"""StagingCache: local copies of lent rBlocks (way ``copy``): fetched once, then read locally.

The holder keeps the authoritative block, so a copy may be dropped at any time.
"""

import time
from collections import OrderedDict

from engine.attention.block_reads import BlockReads
from engine.core import BlockRef
from engine.errors import ConfigError
from engine.memory.base import MemoryPool


class StagingCache:
    """Copies in blocks of the own pool that were drawn for staging; least recently used goes."""

    def __init__(self, reads: BlockReads, pool: MemoryPool, num_blocks: int) -> None:
        """``num_blocks`` will be added; refuses more than the pool can do without."""
        if num_blocks > pool.num_blocks // 2:
            raise ConfigError(
                f"attention.options.staging_blocks={num_blocks} is more than half of the pool's "
                f"{pool.num_blocks} blocks; lower it or raise pool.num_blocks"
            )
        self._reads = reads
        self._free: list[int] = []
        self._copies: OrderedDict[BlockRef, int] = OrderedDict()

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
            self._reads.ask(ref, block)
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            if not self._reads.wait(asked, left):
                break
        for ref, block in asked.items():
            if self._reads.is_here(ref):
                self._copies[ref] = have[ref] = block
            else:
                self._reads.cancel(ref, block)
                self._free.append(block)
        return have

    def _take(self, wanted: set[BlockRef]) -> int | None:
        if self._free:
            return self._free.pop()
        for ref in self._copies:
            if ref not in wanted:
                return self._copies.pop(ref)
        return None
