"""The pool in a device's memory: blocks in one torch tensor, generations on the host.

It belongs to the process that computes on the device; others see copies of its blocks, and ask it.
With the device ``cpu`` the same code runs where there is no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine import devices
from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory.base import MemoryPool, header_bytes
from engine.memory.generations import Generations
from engine.memory.room import no_room, require_room


class DevicePool(MemoryPool):
    """rBlocks in a tensor. Whoever writes or reads them here waits until it is done.

    Kernels that were launched before on the same stream come first; those of other streams must be
    waited for by who gives a block away.
    """

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        device: str = "auto"
        """auto (a CUDA GPU where there is one, else cpu), cpu, cuda, or one GPU as cuda:1"""

    def __init__(self, config: Config, *, layout: BlockLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self.device = devices.pick(config.device)
        self.bytes_PB: torch.Tensor = _zeros(self.device, num_blocks, layout.block_bytes)
        self._first = self.bytes_PB.data_ptr()
        counters = np.zeros(header_bytes(num_blocks), np.uint8)
        self._generations = Generations(counters.data, num_blocks, atomic=False)
        self._counters = counters

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


def _zeros(device: str, num_blocks: int, block_bytes: int) -> torch.Tensor:
    wanted_bytes = num_blocks * block_bytes
    if device == "cpu":
        require_room(wanted_bytes)
        there = "this process may not have so many"
    else:
        devices.enter(device)
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
