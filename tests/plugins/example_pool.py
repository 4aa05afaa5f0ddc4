"""A memory pool in a file, so that a fast disk can hold more rBlocks than memory does."""

import contextlib
import mmap
import os
import tempfile
from dataclasses import dataclass

from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory.base import MemoryPool, region_bytes
from engine.memory.generations import Generations, address_of, has_atomics


class FilePool(MemoryPool):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        folder: str = "/var/tmp"
        """where the file lies; it has no name and is gone with its last process"""

    def __init__(self, config: Config, *, layout: BlockLayout, num_blocks: int) -> None:
        self.layout, self.num_blocks = layout, num_blocks
        wanted_bytes = region_bytes(layout, num_blocks)
        try:
            with tempfile.TemporaryFile(dir=config.folder) as file:
                os.posix_fallocate(file.fileno(), 0, wanted_bytes)
                self._map = mmap.mmap(file.fileno(), wanted_bytes)  # shared with child processes
                self._fd: int | None = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        except OSError as error:
            raise ConfigError(f"{wanted_bytes:,} bytes wanted for a pool: {error}") from error
        self._region = memoryview(self._map)
        self._address = address_of(self._region)
        self._generations = Generations(self._region, num_blocks, atomic=has_atomics())

    region = property(lambda self: self._region)
    fd = property(lambda self: self._fd)
    address = property(lambda self: self._address)

    def generation(self, block: int) -> int:
        return self._generations.load(block)

    def bump(self, block: int) -> None:
        self._generations.bump(block)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            self._generations.close()
        with contextlib.suppress(BufferError):  # unmapped when the last view of it goes
            self._region.release()
            self._map.close()
