"""The pool that processes share: anonymous memory with a descriptor (memfd), one per epoch.

Created before its processes fork: they inherit the writable map. Everybody else gets ``fd``, which
is read-only, and after ``seal_writes`` nobody can make another writable map, not even by reopening
it. The region never changes its length, so a mapped reader cannot fall off its end.
"""

import contextlib
import fcntl
import mmap
import os
from dataclasses import dataclass

from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory.base import MemoryPool, region_bytes
from engine.memory.generations import Generations, address_of, has_atomics
from engine.memory.room import no_room, require_room

F_SEAL_FUTURE_WRITE = 0x10
"""Linux 5.1; not yet named by the fcntl module"""


class PagedPool(MemoryPool):
    """rBlocks in a sealed memfd."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        prefault: bool = False
        """take all memory at the start, not on first use: slower to start, steadier after"""

    def __init__(self, config: Config, *, layout: BlockLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        wanted_bytes = region_bytes(layout, num_blocks)
        require_room(wanted_bytes)
        self._closing = contextlib.ExitStack()
        self._fd: int | None = None
        try:
            self._map(wanted_bytes, prefault=config.prefault)
        except (OSError, OverflowError) as error:
            self._closing.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise no_room(wanted_bytes, f"the kernel refused ({reason})") from error
        self._region = memoryview(self._mapped)
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
        return self._fd

    @property
    def address(self) -> int:
        return self._address

    def generation(self, block: int) -> int:
        return self._generations.load(block)

    def bump(self, block: int) -> None:
        self._generations.bump(block)

    def seal_writes(self) -> bool:
        """Refuse new writable maps and writes by descriptor; maps that exist stay writable.

        Called once, when all processes of the own instance have inherited theirs. False where
        the kernel has no such seal.
        """
        try:
            fcntl.fcntl(self._writable_fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._fd = None
        self._generations.close()
        with contextlib.suppress(BufferError):  # unmapped when the last view of it goes
            self._region.release()
            self._mapped.close()
        self._closing.close()

    def _map(self, wanted_bytes: int, *, prefault: bool) -> None:
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self._writable_fd = os.memfd_create("lendkv-pool", flags)
        except AttributeError as error:
            raise ConfigError("pool.name=paged needs Linux; use pool.name=reference") from error
        self._closing.callback(os.close, self._writable_fd)
        os.ftruncate(self._writable_fd, wanted_bytes)
        if prefault:
            os.posix_fallocate(self._writable_fd, 0, wanted_bytes)
        self._mapped = mmap.mmap(self._writable_fd, wanted_bytes)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(self._writable_fd, fcntl.F_ADD_SEALS, seals)
        self._fd = os.open(f"/proc/self/fd/{self._writable_fd}", os.O_RDONLY)
        self._closing.callback(os.close, self._fd)
