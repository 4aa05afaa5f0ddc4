"""TieredBackend: attention over a pool in two memories, each read where it lies.

The device attends to what lies there while the processor attends to what lies in host memory, own
blocks and mapped ones of others; node rows of both are merged on the device. Where many queries
read a host block, its layer is copied to the device first (``host_costs.py``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.attention import BACKENDS
from engine.attention.base import Partial
from engine.attention.host_costs import HostCosts
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.tiers import Parts, rows_by_address
from engine.attention.tree import MergeProgram, Piece
from engine.errors import ConfigError
from engine.memory.base import MemoryPool
from engine.registry import construct, own_config


class TieredBackend(LocalBackend):
    """A backend for each of the pool's ``tiers``."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        near: str = "auto"
        """for what lies on the device: triton, flash or your own; auto: triton on a GPU, native on
        the CPU"""
        far: str = "native"
        """for what lies in host memory: native, or one of the CPU's others"""

    def __init__(self, config: Config, **runtime: Any) -> None:
        super().__init__(**runtime)
        assert self.pool.tiers is not None, "device_over looked"
        near, far = self.pool.tiers
        name = config.near
        if name == "auto":
            name = "native" if self.device == "cpu" else "triton"
        self.near = _part(name, runtime, near)
        self.far = _part(config.far, runtime, far)
        if self.near.fingerprint == self.far.fingerprint:
            self.fingerprint = self.near.fingerprint
        self.costs = HostCosts()
        self._num_near = self.pool.num_blocks - far.num_blocks
        self._near = _addresses(near)
        self._far = _addresses(far)
        self._slots = [near.block_address(n) for n in range(self._num_near, near.num_blocks)]
        self._writes: tuple[Tensor, Tensor] | None = None
        """rows whose keys go to the device, and those whose keys do not; None: all do"""
        self._is_step = False
        self._parts: Parts | None = None
        self._known: Piece | None = None
        self._both = NodeRows.empty(0, self.shape, self.device)
        self._far_rows = NodeRows.empty(0, self.shape)

    def device_over(self, pool: MemoryPool) -> str:
        if pool.tiers is None:
            raise ConfigError(
                "the backend tiered is for a pool on a device and in host memory: use "
                "pool.name=tiered, or attention.options.local=triton or native"
            )
        return pool.device

    def place(self, block_T: Tensor, slot_T: Tensor) -> None:
        if not self._is_step:
            self._is_step = True
            self._time_a_copy()
        if self._parts is not None:
            self._parts.go_on()
        is_far_T = block_T >= self._num_near
        if not is_far_T.any():
            self._writes = None
            self.near.place(block_T, slot_T)
            return
        near_T, far_T = (~is_far_T).nonzero().flatten(), is_far_T.nonzero().flatten()
        self.near.place(block_T[near_T], slot_T[near_T])
        self.far.place(block_T[far_T] - self._num_near, slot_T[far_T])
        self._writes = near_T.to(self.device), far_T.to(self.device)

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        if self._writes is None:
            self.near.write(k_TKD, v_TKD, layer)
            return
        near_T, far_T = (rows.to(k_TKD.device) for rows in self._writes)
        if len(near_T):
            self.near.write(k_TKD[near_T], v_TKD[near_T], layer)
        self.far.write(k_TKD[far_T].cpu(), v_TKD[far_T].cpu(), layer)

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        self.near.scale = self.far.scale = self.scale
        parts = self._parts_of(piece)
        if parts is None:
            self.near.attend(piece, q_THD, layer, rows)
            return
        num_near, num_far = parts.near.num_node_rows, parts.far.num_node_rows
        # Before the device gets more to do: the host waits for this.
        far_THD = q_THD.cpu() if num_far else q_THD
        self._copy(parts, layer)
        if num_near:
            self.near.attend(parts.near, q_THD, layer, self._both.slice(0, num_near))
        if num_far:
            began = time.perf_counter()
            self.far.attend(parts.far, far_THD, layer, self._far_rows)
            row_keys = parts.num_row_keys * self.layout.tokens
            self.costs.learn_work(time.perf_counter() - began, row_keys)
            behind = self._both.slice(num_near, num_far)
            behind.out_RHD.copy_(self._far_rows.out_RHD)
            behind.lse_RH.copy_(self._far_rows.lse_RH)
        merged = self.near.merge(parts.program, self._both, piece.num_node_rows)
        own = rows.slice(0, piece.num_node_rows)
        own.out_RHD.copy_(merged.out_THD)
        own.lse_RH.copy_(merged.lse_TH)

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        return self.near.merge(program, rows, num_queries)

    def _parts_of(self, piece: Piece) -> Parts | None:
        """None where all lies on the device. A piece comes again for each layer of a step."""
        if self._known is piece:
            return self._parts
        self._known, self._parts = piece, None
        if not all(address in self._near for address in piece.address.tolist()):
            parts = Parts.of(piece, self._near.__contains__, self._worth_copying(piece))
            num_rows = parts.near.num_node_rows + parts.far.num_node_rows
            self._both = NodeRows.empty(num_rows, self.shape, self.device)
            self._far_rows = NodeRows.empty(parts.far.num_node_rows, self.shape)
            self._parts = parts
        return self._parts

    def _worth_copying(self, piece: Piece) -> dict[int, int]:
        """Addresses of own host blocks, and where the device is to have copies of them.

        Only a step has copies: who answers others with this pool has the same room for them.
        """
        if not self._is_step or not self._slots:
            return {}
        layer_bytes, tokens = self.layout.layer_bytes, self.layout.tokens
        found = rows_by_address(piece, self._far).most_common(len(self._slots))
        worth = [at for at, n in found if self.costs.prefers_copy(n, tokens, layer_bytes)]
        offset = self.layout.offset_bytes
        return {at: slot + offset for at, slot in zip(worth, self._slots, strict=False)}

    def _copy(self, parts: Parts, layer: int) -> None:
        """The layer's keys and values of the blocks that the near part has copies of."""
        start, stop = layer * self.layout.layer_bytes, (layer + 1) * self.layout.layer_bytes
        for address, copy in parts.copies.items():
            block = (address - self._far.start) // self.layout.block_bytes
            slot = (copy - self._near.start) // self.layout.block_bytes
            self._copy_bytes(block, slot, start, stop)

    def _copy_bytes(self, block: int, slot: int, start: int, stop: int) -> None:
        there = self.near.bytes_PB[slot, start:stop]
        there.copy_(self.far.bytes_PB[block, start:stop], non_blocking=True)

    def _time_a_copy(self) -> None:
        """What a byte costs on its way, once; the first copy is the one that is slow."""
        if not self._slots or not self.far.pool.num_blocks:
            return
        block_bytes = self.layout.block_bytes
        for _ in range(2):
            began = time.perf_counter()
            self._copy_bytes(0, self._num_near, 0, block_bytes)
            if self.device != "cpu":
                torch.cuda.current_stream(torch.device(self.device)).synchronize()
            self.costs.byte_s = (time.perf_counter() - began) / block_bytes


def _part(name: str, runtime: dict[str, Any], pool: MemoryPool) -> LocalBackend:
    cls = BACKENDS.load(name)
    if not issubclass(cls, LocalBackend) or issubclass(cls, TieredBackend):
        raise ConfigError(f"the backend {name!r} is not for one memory; use triton, flash, native")
    part: LocalBackend = construct(cls, own_config(cls), **(runtime | {"pool": pool}))
    return part


def _addresses(pool: MemoryPool) -> range:
    first = pool.block_address(0)
    return range(first, first + pool.num_blocks * pool.layout.block_bytes)
