"""The pool that processes share: one region of sealed memory (``sealed.py``), one per epoch.

Created before its processes fork: they inherit the writable map.
"""

from dataclasses import dataclass

from engine.core import BlockLayout
from engine.memory.base import MemoryPool, region_bytes
from engine.memory.generations import Generations, address_of, has_atomics
from engine.memory.sealed import SealedMemory


class PagedPool(MemoryPool):
    """rBlocks in a sealed memfd."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        prefault: bool = False
        """take all memory at the start, not on first use: slower to start, steadier after"""

    def __init__(self, config: Config, *, layout: BlockLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self._memory = SealedMemory(region_bytes(layout, num_blocks), prefault=config.prefault)
        self._region = self._memory.view
        self._address = address_of(self._region)
        self.has_atomics = has_atomics()
        """whether others may watch generations through a map (needs the native helper)"""
        self._generations = Generations(self._region, num_blocks, atomic=self.has_atomics)

    @property
    def region(self) -> memoryview:
        return self._region

    @property
    def fd(self) -> int | None:
        """Read-only; None after close."""
        return self._memory.fd

    @property
    def address(self) -> int:
        return self._address

    def generation(self, block: int) -> int:
        return self._generations.load(block)

    def bump(self, block: int) -> None:
        self._generations.bump(block)

    def seal_writes(self) -> bool:
        """To be called once, when all processes of the own instance have inherited their maps; see
        ``SealedMemory.seal_writes``."""
        return self._memory.seal_writes()

    def close(self) -> None:
        self._generations.close()
        self._memory.close()
