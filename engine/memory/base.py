"""MemoryPool: the bytes of an instance's rBlocks. Who owns which block is the RManager's business.

A pool is one region: a header with a 64-bit generation for each block, padded to a page, then the
blocks, each ``layout.block_bytes`` long. A generation grows before the first byte of a block that
is given to somebody else changes, so that a reader on the same host can tell.
"""

from abc import ABC, abstractmethod

from engine.core import BlockLayout

PAGE_BYTES = 4096


def header_bytes(num_blocks: int) -> int:
    """Bytes of the generation header: ``num_blocks`` 64-bit counters, padded to a page."""
    return -(-num_blocks * 8 // PAGE_BYTES) * PAGE_BYTES


def region_bytes(layout: BlockLayout, num_blocks: int) -> int:
    return header_bytes(num_blocks) + num_blocks * layout.block_bytes


class MemoryPool(ABC):
    """Storage of ``num_blocks`` rBlocks of one layout."""

    layout: BlockLayout
    num_blocks: int

    @property
    @abstractmethod
    def region(self) -> memoryview:
        """All bytes of the pool, header first; writable."""

    @property
    @abstractmethod
    def fd(self) -> int | None:
        """File descriptor of the region for other processes, or None when it is private.

        Transport ``shm`` takes only a memfd that is sealed against shrinking.
        """

    @property
    @abstractmethod
    def address(self) -> int:
        """Memory address of the region's first byte in this process."""

    @abstractmethod
    def generation(self, block: int) -> int:
        """The block's generation (load-acquire where a native helper is there)."""

    @abstractmethod
    def bump(self, block: int) -> None:
        """Grow the block's generation (store-release), before its bytes may change."""

    @abstractmethod
    def close(self) -> None:
        """Unmap. Safe to call twice."""

    def block_address(self, block: int) -> int:
        return self.address + header_bytes(self.num_blocks) + block * self.layout.block_bytes

    def block(self, block: int) -> memoryview:
        """The writable bytes of one block. Raises IndexError outside the pool."""
        if not 0 <= block < self.num_blocks:
            raise IndexError(f"block {block} of a pool of {self.num_blocks}")
        start = header_bytes(self.num_blocks) + block * self.layout.block_bytes
        return self.region[start : start + self.layout.block_bytes]
