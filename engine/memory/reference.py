"""The plainest pool: private memory of one process. Cannot be mapped by others."""

import contextlib
from dataclasses import dataclass

import numpy as np

from engine.core import BlockLayout
from engine.memory.base import PAGE_BYTES, MemoryPool, region_bytes
from engine.memory.generations import Generations
from engine.memory.room import no_room, require_room


class ReferencePool(MemoryPool):
    """rBlocks in a NumPy array whose first byte lies on a page boundary."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Nothing to choose."""

    def __init__(self, config: Config, *, layout: BlockLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        wanted_bytes = region_bytes(layout, num_blocks)
        require_room(wanted_bytes)
        try:
            memory = np.zeros(wanted_bytes + PAGE_BYTES, dtype=np.uint8)
        except MemoryError as error:
            raise no_room(wanted_bytes, "this process may not have so many") from error
        start = -int(memory.ctypes.data) % PAGE_BYTES
        self._address = int(memory.ctypes.data) + start
        self._region = memory[start : start + wanted_bytes].data
        self._generations = Generations(self._region, num_blocks, atomic=False)

    @property
    def region(self) -> memoryview:
        return self._region

    @property
    def fd(self) -> int | None:
        return None

    @property
    def address(self) -> int:
        return self._address

    def generation(self, block: int) -> int:
        return self._generations.load(block)

    def bump(self, block: int) -> None:
        self._generations.bump(block)

    def close(self) -> None:
        self._generations.close()
        with contextlib.suppress(BufferError):  # freed when the last view of it goes
            self._region.release()
