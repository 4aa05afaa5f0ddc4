"""The pool in a device's memory: blocks in one torch tensor, generations on the host.

It belongs to the process that computes on the device; others see copies of its blocks, and ask it,
or read them in place where it is ``mapped``. With the device ``cpu`` the same code runs where there
is no GPU.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from engine import devices, gpu_memory
from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory.base import MemoryPool, header_bytes
from engine.memory.generations import Generations
from engine.memory.room import no_room, require_room
from engine.memory.sealed import SealedMemory


class DevicePool(MemoryPool):
    """rBlocks in a tensor. Whoever writes or reads them here waits until it is done.

    Kernels that were launched before on the same stream come first; those of other streams must be
    waited for by who gives a block away.
    """

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        device: str = "auto"
        """auto (a CUDA GPU where there is one, else cpu), cpu, cuda, or one GPU as cuda:1"""
        mapped: bool = False
        """instances on this host read each other's blocks in place, on GPUs by CUDA IPC. Off: it is
        not proved what becomes of a GPU's kernels that read there when the holder is killed"""

    def __init__(
        self,
        config: Config,
        *,
        layout: BlockLayout,
        num_blocks: int,
        shared: bool = False,
        shown: torch.Tensor | None = None,
    ) -> None:
        """``shared``: another process is to be shown the blocks. ``shown``: another has made and
        shared them."""
        self.layout = layout
        self.num_blocks = num_blocks
        self.device = devices.pick(config.device)
        devices.enter(self.device)
        bytes_PB = shown
        self._file: _File | None = None
        if shared and self.device == "cpu":
            self._file = _File.made(num_blocks * layout.block_bytes, owner=self)
            bytes_PB = _mapped(*self._file)
        self._shared: SealedMemory | None = None
        counters = np.zeros(header_bytes(num_blocks), np.uint8).data
        if config.mapped:
            in_host_bytes = num_blocks * layout.block_bytes if self.device == "cpu" else 0
            self._shared = SealedMemory(len(counters) + in_host_bytes)
            self._shared.seal_writes()  # this process has its map, and no other one writes
            counters = self._shared.view
            if self.device == "cpu":
                blocks = torch.frombuffer(counters, dtype=torch.uint8)
                bytes_PB = blocks[header_bytes(num_blocks) :]
        if bytes_PB is None:
            bytes_PB = _zeros(self.device, num_blocks, layout.block_bytes)
        self.bytes_PB: torch.Tensor = bytes_PB.view(num_blocks, layout.block_bytes)
        self._first = self.bytes_PB.data_ptr()
        if config.mapped and self.bytes_PB.is_cuda:
            self.gpu = gpu_memory.shown(self.bytes_PB)
        self._generations = Generations(counters, num_blocks, atomic=config.mapped)

    @property
    def fd(self) -> int | None:
        """Where it is mapped: read-only, of generations, and behind them the CPU's blocks."""
        return self._shared.fd if self._shared else None

    @property
    def visible(self) -> memoryview | None:
        return self._shared.view if self._shared else None

    def share(self) -> object:
        assert self._file or self.bytes_PB.is_cuda, "it was not made to be shared"
        return self._file or self.bytes_PB  # torch has taught pipes to carry CUDA's handles

    def block_address(self, block: int) -> int:
        """On the device."""
        return self._first + block * self.layout.block_bytes

    def generation(self, block: int) -> int:
        return self._generations.load(block)

    def bump(self, block: int) -> None:
        self._generations.bump(block)

    def read(self, block: int, start: int = 0, stop: int | None = None) -> memoryview:
        """A copy, but on the CPU."""
        self.require(block)
        found: memoryview = self.bytes_PB[block, start:stop].cpu().numpy().data
        return found.toreadonly()

    def write(self, block: int, start: int, body: bytes | memoryview) -> None:
        self.require(block)
        if not len(body):
            return
        there = torch.frombuffer(bytearray(body), dtype=torch.uint8)
        self.bytes_PB[block, start : start + len(there)].copy_(there)
        if self.bytes_PB.is_cuda:  # others may read it on their streams from now on
            torch.cuda.current_stream(self.bytes_PB.device).synchronize()

    def close(self) -> None:
        self.num_blocks = 0
        self._generations.close()
        self.bytes_PB = self.bytes_PB[:0]
        if self._shared:
            self._shared.close()


class _File(NamedTuple):
    """Memory of this host's CPU, which arrives elsewhere as a tensor over it."""

    path: str
    num_bytes: int

    @staticmethod
    def made(num_bytes: int, *, owner: object) -> _File:
        """Zeros, as long as there is an ``owner``. Raises ConfigError where there is no room."""
        require_room(num_bytes)
        file = os.memfd_create("lendkv-part")
        weakref.finalize(owner, os.close, file)
        os.truncate(file, num_bytes)
        return _File(f"/proc/{os.getpid()}/fd/{file}", num_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, tuple(self)


def _mapped(path: str, num_bytes: int) -> torch.Tensor:
    return torch.from_file(path, shared=True, size=num_bytes, dtype=torch.uint8)


def _zeros(device: str, num_blocks: int, block_bytes: int) -> torch.Tensor:
    wanted_bytes = num_blocks * block_bytes
    if device == "cpu":
        require_room(wanted_bytes)
        there = "this process may not have so many"
    else:
        free, total = torch.cuda.mem_get_info(device)
        there = f"{free:,} of {total:,} are free on {device}"
        if wanted_bytes > free:
            raise _too_large(wanted_bytes, there)
    try:
        zeros = torch.zeros(num_blocks, block_bytes, dtype=torch.uint8, device=device)
        if device != "cpu":  # others write into it on streams of their own
            torch.cuda.synchronize(device)
        return zeros
    except (MemoryError, RuntimeError) as error:  # torch.cuda.OutOfMemoryError is one
        if device == "cpu":
            raise no_room(wanted_bytes, there) from error
        raise _too_large(wanted_bytes, there) from error


def _too_large(wanted_bytes: int, there: str) -> ConfigError:
    return ConfigError(
        f"the pool wants {wanted_bytes:,} bytes and {there}; lower pool.num_blocks, or put blocks "
        "into host memory with pool.name=tiered and pool.lending.host_blocks"
    )
