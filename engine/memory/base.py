"""MemoryPool: the bytes of an instance's rBlocks. Who owns which block is the RManager's business.

In host memory a pool is one region: a header with a 64-bit generation for each block, padded to a
page, then the blocks, each ``layout.block_bytes`` long. A generation grows before the first byte of
a block that is given to somebody else changes, so that a reader on the same host can tell. On a
device (``memory/device.py``) the blocks are a tensor, and the host sees copies of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from engine.core import BlockLayout

if TYPE_CHECKING:
    from torch import Tensor

    from engine.protocol import GpuMemory

PAGE_BYTES = 4096


def header_bytes(num_blocks: int) -> int:
    """Bytes of the generation header: ``num_blocks`` 64-bit counters, padded to a page."""
    return -(-num_blocks * 8 // PAGE_BYTES) * PAGE_BYTES


def region_bytes(layout: BlockLayout, num_blocks: int) -> int:
    return header_bytes(num_blocks) + num_blocks * layout.block_bytes


class MemoryPool(ABC):
    """Storage of ``num_blocks`` rBlocks of one layout, by default in a region of host memory."""

    layout: BlockLayout
    num_blocks: int
    device: str = "cpu"
    """where the blocks lie, as PyTorch names it"""
    bytes_PB: Tensor | None = None
    """the blocks on ``device``, uint8; None where they lie in ``region``"""
    tiers: tuple[MemoryPool, MemoryPool] | None = None
    """the device's memory and host memory, where blocks lie in both: those of the second come
    last, and the first may have more than are counted, for copies"""
    parts: tuple[tuple[range, MemoryPool], ...] = ()
    """where each tp rank has a memory of its own: its KV heads of every block, and their pool"""
    gpu: GpuMemory | None = None
    """where others on this host may read the blocks in a GPU's memory; ``fd`` is of generations"""
    takes_host_blocks: bool = False
    """whether it is told which of its blocks are ``pool.lending.host_blocks``"""

    @property
    def region(self) -> memoryview | None:
        """All bytes of the pool, header first; writable. None where there is no such region."""
        return None

    @property
    def fd(self) -> int | None:
        """File descriptor of the region for other processes, or None when it is private.

        Transport ``shm`` takes only a memfd that is sealed against shrinking.
        """
        return None

    @property
    def visible(self) -> memoryview | None:
        """What ``fd`` shows: the region, or what a pool on a device has instead of one."""
        return self.region

    @property
    def address(self) -> int:
        """Memory address of the region's first byte in this process."""
        raise NotImplementedError(f"{type(self).__name__} has no region")

    @abstractmethod
    def generation(self, block: int) -> int:
        """The block's generation (load-acquire where a native helper is there)."""

    @abstractmethod
    def bump(self, block: int) -> None:
        """Grow the block's generation (store-release), before its bytes may change."""

    @abstractmethod
    def close(self) -> None:
        """Unmap. Safe to call twice."""

    def share(self) -> object:
        """What a pipe turns into the ``shown`` of a pool over the same blocks in another process of
        this host, as long as this one is there."""
        raise NotImplementedError(f"{type(self).__name__} is made by the process that has it")

    @cached_property
    def _first_and_bytes(self) -> tuple[int, int]:
        return self.address + header_bytes(self.num_blocks), self.layout.block_bytes

    def block_address(self, block: int) -> int:
        """Of its first byte: in this process's memory, or on ``device``."""
        first, block_bytes = self._first_and_bytes
        return first + block * block_bytes

    def read(self, block: int, start: int = 0, stop: int | None = None) -> memoryview:
        """The block's bytes ``[start, stop)``, read only; perhaps a view of what may still change.

        Raises IndexError outside the pool, as ``write`` does.
        """
        return self.block(block)[start:stop].toreadonly()

    def write(self, block: int, start: int, body: bytes | memoryview) -> None:
        """Put the bytes at ``start`` of the block; done when this returns."""
        self.block(block)[start : start + len(body)] = body

    def block(self, block: int) -> memoryview:
        """The writable bytes of one block of the region."""
        self.require(block)
        region = self.region
        assert region is not None, "its blocks lie elsewhere: read and write them"
        start = header_bytes(self.num_blocks) + block * self.layout.block_bytes
        return region[start : start + self.layout.block_bytes]

    def require(self, block: int) -> None:
        """Raises IndexError for a block outside the pool."""
        if not 0 <= block < self.num_blocks:
            raise IndexError(f"block {block} of a pool of {self.num_blocks}")
