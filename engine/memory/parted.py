"""The pool of an instance whose tp ranks compute on devices: each has its heads where it computes.

Rank 0's process makes all parts and keeps the one set of books; another rank is shown its part. On
the way to others a block is whole: then its heads are put together, in host memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.core import BlockLayout
from engine.memory.base import MemoryPool, header_bytes
from engine.memory.generations import Generations


class PartedPool(MemoryPool):
    """A pool for each rank. Ranks that share a KV head have a copy of it each."""

    def __init__(
        self, *, layout: BlockLayout, num_blocks: int, parts: Sequence[tuple[range, MemoryPool]]
    ) -> None:
        """``parts``: each rank's KV heads, and the pool that has them of every block; the heads of
        all, in order, are those of ``layout``."""
        self.layout = layout
        self.num_blocks = num_blocks
        self.parts = tuple(parts)
        self.device = self.parts[0][1].device
        counters = np.zeros(header_bytes(num_blocks), np.uint8)
        self._generations = Generations(counters.data, num_blocks, atomic=False)
        self._counters = counters

    def block_address(self, block: int) -> int:
        """In no memory: bytes behind the pool's first, as if blocks were whole."""
        return block * self.layout.block_bytes

    def generation(self, block: int) -> int:
        return self._generations.load(block)

    def bump(self, block: int) -> None:
        self._generations.bump(block)

    def read(self, block: int, start: int = 0, stop: int | None = None) -> memoryview:
        """A copy."""
        self.require(block)
        start, stop, _ = slice(start, stop).indices(self.layout.block_bytes)
        first, layers = self._layers(start, stop)
        rows_LKB = self._read(block, layers)
        return rows_LKB.reshape(-1)[start - first : stop - first].data.toreadonly()

    def write(self, block: int, start: int, body: bytes | memoryview) -> None:
        self.require(block)
        if not len(body):
            return
        first, layers = self._layers(start, start + len(body))
        rows_LKB = self._read(block, layers)  # the ends of what is written may be within a head
        at = start - first
        rows_LKB.reshape(-1)[at : at + len(body)] = np.frombuffer(body, np.uint8)
        for heads, part in self.parts:
            layer_bytes = part.layout.layer_bytes
            own = rows_LKB[:, heads.start : heads.stop].tobytes()
            part.write(block, layers.start * layer_bytes, own)

    def close(self) -> None:
        self.num_blocks = 0
        self._generations.close()
        for _, part in self.parts:
            part.close()

    def _layers(self, start: int, stop: int) -> tuple[int, range]:
        """The layers that have these bytes of a block, and where the first of them begins."""
        layer_bytes = self.layout.layer_bytes
        layers = range(start // layer_bytes, -(-stop // layer_bytes))
        return layers.start * layer_bytes, layers

    def _read(self, block: int, layers: range) -> NDArray[np.uint8]:
        """All heads of these layers."""
        rows_LKB = np.empty((len(layers), self.layout.kv_heads, self.layout.head_bytes), np.uint8)
        for heads, part in self.parts:
            layer_bytes = part.layout.layer_bytes
            own = part.read(block, layers.start * layer_bytes, layers.stop * layer_bytes)
            there = rows_LKB[:, heads.start : heads.stop]
            there[:] = np.frombuffer(own, np.uint8).reshape(there.shape)
        return rows_LKB
