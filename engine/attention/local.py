"""LocalBackend: attention over keys in this process's memory; what DistAttention wraps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine import devices
from engine.attention.base import AttentionBackend, Partial
from engine.attention.native_calls import NativeStep
from engine.attention.places import NOWHERE_YET, Places
from engine.attention.stored import Stored, keys_and_values
from engine.attention.tree import MergeProgram, Node, Piece, Segment
from engine.core import BlockLayout, ModelShape, Plan
from engine.errors import ConfigError
from engine.memory.base import MemoryPool, header_bytes

if TYPE_CHECKING:
    from engine.attention.fixed import Fixed

SEGMENT_ROWS = 32
"""query rows that are attended together; a holder is never busy with one unit for long"""


class Cut(NamedTuple):
    """Rows of one span that are attended together."""

    span: int
    """index of the span in the plan"""
    row_start: int
    num_rows: int
    first_position: int


def cut(plan: Plan, max_rows: int = SEGMENT_ROWS) -> list[Cut]:
    """The plan's spans in pieces of at most ``max_rows`` rows."""
    cuts = []
    for index, span in enumerate(plan.spans):
        for done in range(0, span.num_rows, max_rows):
            rows = min(max_rows, span.num_rows - done)
            cuts.append(Cut(index, span.row_start + done, rows, span.first_position + done))
    return cuts


@dataclass(frozen=True, slots=True)
class NodeRows:
    """One buffer for the node rows of all pieces of a step."""

    out_RHD: Tensor
    lse_RH: Tensor

    @staticmethod
    def empty(num_rows: int, shape: ModelShape, device: str = "cpu") -> NodeRows:
        return NodeRows(
            torch.empty(num_rows, shape.num_heads, shape.head_dim, device=device),
            torch.empty(num_rows, shape.num_heads, device=device),
        )

    @property
    def num_bytes(self) -> int:
        return 4 * (self.out_RHD.numel() + self.lse_RH.numel())

    def fill(self, body: memoryview) -> bool:
        """Take an Answer's body; False when its length is another."""
        if len(body) != self.num_bytes:
            return False
        got, num_out = np.frombuffer(body, np.float32), self.out_RHD.numel()
        if self.out_RHD.device.type != "cpu":
            there = devices.sent(torch.tensor(got), self.out_RHD.device)
            self.out_RHD.view(-1).copy_(there[:num_out])
            self.lse_RH.view(-1).copy_(there[num_out:])
            return True
        self.out_RHD.numpy().reshape(-1)[:] = got[:num_out]
        self.lse_RH.numpy().reshape(-1)[:] = got[num_out:]
        return True

    def clear(self) -> None:
        """No key was seen."""
        self.out_RHD[:], self.lse_RH[:] = 0.0, -float("inf")

    def slice(self, start: int, num_rows: int) -> NodeRows:
        return NodeRows(
            self.out_RHD[start : start + num_rows], self.lse_RH[start : start + num_rows]
        )


def rows_of_nodes(piece: Piece, base: int) -> list[dict[Node, int]]:
    """For each segment of a piece laid at buffer row ``base``: its nodes' first rows."""
    return [
        {node: base + node_start + number * num_rows for number, node in enumerate(nodes)}
        for (_, num_rows, _, _, _, node_start), nodes in zip(
            piece.segments_S6.tolist(), piece.nodes, strict=True
        )
    ]


class LocalBackend(AttentionBackend):
    """Stores keys and values in the instance's own pool and attends to what lies at hand.

    Subclasses say how: ``attend`` and ``merge``. ``fingerprint`` is the kernel's (equal ones give
    equal bits), or empty where the bits depend on placement.
    """

    fingerprint: str = ""
    maps: str = "cpu"
    """where it reads others' memory in place: the host's (cpu), or what a device can reach; empty:
    it reads the own pool's alone"""

    def __init__(
        self, *, shape: ModelShape, layout: BlockLayout, pool: MemoryPool, num_threads: int = 1
    ) -> None:
        self.shape = shape
        self.layout = layout
        self.pool = pool
        self.scale = shape.head_dim**-0.5
        self.num_threads = num_threads
        self.device = self.device_over(pool)
        """where it computes, and where node rows and finished rows are"""
        self._block_T = self._slot_T = torch.empty(0, dtype=torch.int64)
        self._piece: Piece | None = None
        self._program: MergeProgram | None = None
        self._rows = NodeRows.empty(0, shape, self.device)

    def device_over(self, pool: MemoryPool) -> str:
        """Where it computes over this pool; raises ConfigError where it cannot read it."""
        if pool.tiers is not None:
            raise ConfigError(
                f"{type(self).__name__} reads one memory, and the pool lies on {pool.device} and "
                "in host memory: use attention.options.local=tiered, or pool.name=device"
            )
        if pool.device != "cpu":
            raise ConfigError(
                f"{type(self).__name__} computes on the CPU, and the pool lies on {pool.device}: "
                "use attention.options.local=triton or flash, or pool.name=paged"
            )
        return "cpu"

    @cached_property
    def bytes_PB(self) -> Tensor:
        """The own pool's blocks, uint8, where they lie."""
        pool = self.pool
        if pool.bytes_PB is not None:
            return pool.bytes_PB
        region = pool.region
        assert region is not None, "a pool has bytes_PB or a region"
        blocks = torch.frombuffer(region, dtype=torch.uint8)[header_bytes(pool.num_blocks) :]
        return blocks.view(pool.num_blocks, -1)

    @cached_property
    def stored(self) -> Stored:
        """Their keys and values, of the layout's heads."""
        return Stored(self.layout, self.bytes_PB)

    @abstractmethod
    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        """Fill the piece's node rows (see ``Piece``); keys behind a query are not seen."""

    @abstractmethod
    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        """Run the merge program, overwriting ``rows``; the finished query rows."""

    def native_step_of(
        self, piece: Piece, program: MergeProgram, rows: NodeRows, q_THD: Tensor
    ) -> NativeStep | None:
        """``native_step`` with somebody else's piece and program."""
        return None

    def fix(self, piece: Piece, program: MergeProgram, num_node_rows: int) -> Fixed | None:
        """Have what this step's launches read where later ones of its kind will have it; until
        ``place`` they read it there. Each segment has one row. None: it has no such place."""
        return None

    def place_writes(self, plan: Plan) -> None:
        """Note which block and slot each row's new keys and values go to.

        Called once a step: a piece from an earlier one has its later positions by now.
        """
        blocks: list[int] = []
        slots: list[int] = []
        tokens = self.layout.tokens
        for span in plan.spans:
            for position in range(span.first_position, span.first_position + span.num_rows):
                ref = span.table[position // tokens]
                assert ref.loan == 0, "new keys go to the owner's own blocks"
                blocks.append(ref.block)
                slots.append(position % tokens)
        self.place(torch.tensor(blocks, dtype=torch.int64), torch.tensor(slots, dtype=torch.int64))

    def place(self, block_T: Tensor, slot_T: Tensor) -> None:
        """``place_writes`` for these blocks of the own pool, on the CPU."""
        self._block_T, self._slot_T = block_T, slot_T

    def piece(self, cuts: Sequence[Cut], chosen: Sequence[Places]) -> Piece:
        """The piece over the leaves at hand of ``chosen[s]`` of span ``s``."""
        segments = []
        offset = np.uint64(self.layout.offset_bytes)
        for index, row_start, num_rows, first_position in cuts:
            leaves, addresses = chosen[index].leaves, chosen[index].addresses
            last = (first_position + num_rows - 1) // self.layout.tokens
            seen = slice(leaves.searchsorted(last, "right"))
            rows = row_start, num_rows, first_position
            segments.append(Segment(*rows, leaves[seen], addresses[seen] + offset))
        return Piece.of(segments)

    def keys_and_values(self, address: int, layer: int) -> tuple[Tensor, Tensor]:
        """Float32 copies of the keys and values [K, C, D] of one rBlock's layer."""
        return keys_and_values(address, self.layout, layer)

    def begin(self, plan: Plan) -> None:
        self.place_writes(plan)
        places = [NOWHERE_YET.now(span.table, self.pool.block_address) for span in plan.spans]
        assert not any(one.lent for one in places), "a local backend reads own blocks"
        cuts = cut(plan)
        self._piece = self.piece(cuts, places)
        self._program = MergeProgram.of(
            [(c.row_start, c.num_rows) for c in cuts], rows_of_nodes(self._piece, 0)
        )
        self._rows = NodeRows.empty(self._piece.num_node_rows, self.shape, self.device)

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        self.stored.write(self._block_T, self._slot_T, layer, k_TKD, v_TKD)

    def start(self, q_THD: Tensor, layer: int) -> tuple[Tensor, int]:
        return q_THD, layer

    def finish(self, pending: tuple[Tensor, int]) -> Partial:
        assert self._piece is not None, "finish before begin"
        assert self._program is not None, "finish before begin"
        q_THD, layer = pending
        self.attend(self._piece, q_THD, layer, self._rows)
        return self.merge(self._program, self._rows, q_THD.shape[0])

    def native_step(self, q_THD: Tensor) -> NativeStep | None:
        assert self._piece is not None, "native_step before begin"
        assert self._program is not None, "native_step before begin"
        return self.native_step_of(self._piece, self._program, self._rows, q_THD)

    def end(self) -> frozenset[int]:
        self._piece = self._program = None
        return frozenset()
