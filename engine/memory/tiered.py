"""The pool in two memories: the device's, and behind it the host's.

The first blocks lie on the device, the last ``host_blocks`` in host memory, pinned where the device
is a GPU. Who may use which is the books' business: they give the last ones last. Both belong to the
process that computes on the device; a tp rank's part is made and shown by rank 0's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import devices
from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory.base import MemoryPool
from engine.memory.device import DevicePool
from engine.memory.reference import ReferencePool

if TYPE_CHECKING:
    from torch import Tensor


class TieredPool(MemoryPool):
    """A DevicePool, and a pool in host memory whose blocks are counted behind its."""

    takes_host_blocks = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        device: str = "auto"
        """auto (a CUDA GPU where there is one, else cpu), cpu, cuda, or one GPU as cuda:1"""
        copy_blocks: int = 8
        """blocks of the device's memory besides, for copies of host blocks that many queries of a
        step read; 0: all are read where they lie"""

        def __post_init__(self) -> None:
            if self.copy_blocks < 0:
                raise ValueError("copy_blocks must not be below 0")

    def __init__(
        self,
        config: Config,
        *,
        layout: BlockLayout,
        num_blocks: int,
        host_blocks: int | None = None,
        shared: bool = False,
        shown: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """``host_blocks`` of ``num_blocks`` lie in host memory; half of them if left out. What is
        ``shared`` and ``shown`` are both tiers; see ``DevicePool``."""
        self.layout = layout
        self.num_blocks = num_blocks
        num_far = num_blocks // 2 if host_blocks is None else host_blocks
        if not 0 <= num_far < num_blocks:
            raise ConfigError(f"{num_far} blocks of {num_blocks} in host memory: none is left")
        self._num_near = num_blocks - num_far
        near_shown, far_shown = shown or (None, None)
        near = DevicePool(
            DevicePool.Config(device=config.device),
            layout=layout,
            num_blocks=self._num_near + config.copy_blocks,
            shared=shared,
            shown=near_shown,
        )
        far: MemoryPool
        if shared or shown:
            far = DevicePool(
                DevicePool.Config(device="cpu"),
                layout=layout,
                num_blocks=num_far,
                shared=shared,
                shown=far_shown,
            )
        else:
            far = ReferencePool(ReferencePool.Config(), layout=layout, num_blocks=num_far)
        self.device = near.device
        self.tiers: tuple[MemoryPool, MemoryPool] = (near, far)
        if self.device != "cpu" and num_far:
            devices.show(far, far.block_address(0), num_far * layout.block_bytes)

    def share(self) -> object:
        near, far = self.tiers
        return near.share(), far.share()

    def block_address(self, block: int) -> int:
        tier, number = self._find(block)
        return tier.block_address(number)

    def generation(self, block: int) -> int:
        self.require(block)
        tier, number = self._find(block)
        return tier.generation(number)

    def bump(self, block: int) -> None:
        self.require(block)
        tier, number = self._find(block)
        tier.bump(number)

    def read(self, block: int, start: int = 0, stop: int | None = None) -> memoryview:
        self.require(block)
        tier, number = self._find(block)
        return tier.read(number, start, stop)

    def write(self, block: int, start: int, body: bytes | memoryview) -> None:
        self.require(block)
        tier, number = self._find(block)
        tier.write(number, start, body)

    def close(self) -> None:
        self.num_blocks = 0
        for tier in self.tiers:
            tier.close()

    def _find(self, block: int) -> tuple[MemoryPool, int]:
        near, far = self.tiers
        return (near, block) if block < self._num_near else (far, block - self._num_near)
