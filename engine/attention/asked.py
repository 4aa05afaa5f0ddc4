"""Asked: what one debtor's step asks of a pool, and what is to be computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import protocol as p
from engine.attention.kernel_native import NativeKernel
from engine.attention.native_answers import NativeAnswers
from engine.attention.tree import Piece, Segment
from engine.core import BlockLayout, ModelShape
from engine.errors import PeerLost
from engine.memory.base import MemoryPool
from engine.memory.loans import LoanFenced

if TYPE_CHECKING:
    from engine.memory.rmanager import RManager

DECODE_ROWS = 4
"""a slice whose segments are all this short is a decode and goes first"""

_QUERY_DTYPES = {"float32": "f4", "float16": "f2", "bfloat16": "u2"}


@dataclass(frozen=True, slots=True)
class Unit:
    """What is computed without looking at messages: a prefill's segment, or a whole decode."""

    piece: Piece
    row_start: int
    num_rows: int


class Asked:
    """Of the peer with this number in the pool's books."""

    def __init__(
        self, number: int, *, rmanager: RManager, pool: MemoryPool, shape: ModelShape
    ) -> None:
        self._number = number
        self._rmanager = rmanager
        self._pool = pool
        self._whole = self._shape = shape
        self._layout = pool.layout
        self._last_leaf = pool.layout.blocks_for(shape.max_positions)
        self._heads: p.AskedHeads | None = None
        self.query_dtype: np.dtype[Any] = np.dtype(_QUERY_DTYPES[pool.layout.query_dtype])
        self.step = -1
        self.scale = 1.0
        self.slices: list[list[p.AskSpan]] = []
        self._units: dict[int, tuple[list[Any], list[Unit]]] = {}
        """slice -> (the resolved tables they were built from, what to compute)"""
        self._native: NativeAnswers | None = None

    def begin(self, message: p.Begin) -> None:
        """A new step; raises PeerLost when it asks for what cannot be."""
        for span in chain.from_iterable(message.slices):
            last = span.first_position + span.num_rows
            if last > self._shape.max_positions:
                raise PeerLost(f"position {last} of {self._shape.max_positions}")
        if message.heads != self._heads:
            self._look_at(message.heads)
        self.step, self.scale, self.slices = message.step, message.scale, message.slices
        self._units = {}
        self._native = None

    @property
    def num_heads(self) -> int:
        """Query heads that are asked for."""
        return self._shape.num_heads

    @property
    def layout(self) -> BlockLayout:
        """Of the KV heads that are read; addresses of units are where their first one lies."""
        return self._layout

    def take(self, ask: p.Ask, num_bytes: int) -> int:
        """Note that this was asked; its query rows. Raises PeerLost when it was not begun or its
        body does not fit."""
        shape = self._shape
        if ask.step != self.step or ask.slice >= len(self.slices) or ask.layer >= shape.num_layers:
            raise PeerLost(f"asked for step {ask.step} slice {ask.slice}, which was not begun")
        if self._native:
            self._native.skip(ask.layer, ask.slice)
        rows = sum(span.num_rows for span in self.slices[ask.slice])
        expected = rows * shape.num_heads * shape.head_dim * self.query_dtype.itemsize
        if num_bytes != expected:
            raise PeerLost(f"queries of {num_bytes} bytes, {expected} wanted for {rows} rows")
        return rows

    def is_decode(self, part: int) -> bool:
        return _is_decode(self.slices[part])

    def units(self, part: int, now: float) -> list[Unit]:
        """A slice's units, checked against the books; raises LoanFenced, PeerLost."""
        spans = self.slices[part]
        tables = [
            self._rmanager.resolve(self._number, span.sequence, span.version, now) for span in spans
        ]
        if any(table and table[-1][0] > self._last_leaf for table in tables):
            raise PeerLost(f"a table names a leaf behind leaf {self._last_leaf}, the last possible")
        known = self._units.get(part)
        if known is not None and known[0] == tables:
            return known[1]
        whole, offset = _is_decode(spans), self._layout.offset_bytes
        starts = list(accumulate((span.num_rows for span in spans), initial=0))
        segments = [
            Segment(
                start if whole else 0,
                span.num_rows,
                span.first_position,
                tuple(leaf for leaf, _ in table),
                tuple(self._pool.block_address(block) + offset for _, block in table),
            )
            for start, span, table in zip(starts, spans, tables, strict=False)
        ]
        if whole:
            units = [Unit(Piece.of(segments), 0, starts[-1])]
        else:
            units = [
                Unit(Piece.of([segment]), start, segment.num_rows)
                for start, segment in zip(starts, segments, strict=False)
            ]
        self._units[part] = (tables, units)
        return units

    def is_next(self, head: bytes) -> bool:
        """Whether this is what the prepared native answers are to be asked next."""
        return self._native is not None and self._native.is_next(head)

    def native(self, kernel: NativeKernel, until: float) -> NativeAnswers | None:
        """What the native library may answer by itself until then: the books allow it.

        None where they do not, or not all is decodes: what is asked goes the other way, and is
        told there why not.
        """
        if not self.slices or not all(map(_is_decode, self.slices)):
            return None
        if self._native is not None and self._native.is_done:
            return None
        try:
            parts = [self.units(part, until)[0] for part in range(len(self.slices))]
        except (LoanFenced, PeerLost):
            return None
        if self._native is None or not self._native.is_of([unit.piece for unit in parts]):
            self._native = NativeAnswers(
                kernel,
                self.step,
                [(unit.piece, unit.num_rows) for unit in parts],
                layout=self._layout,
                shape=self._shape,
                scale=self.scale,
                query_dtype=self.query_dtype,
            )
        return self._native

    def _look_at(self, heads: p.AskedHeads | None) -> None:
        """From now on these heads are asked for."""
        whole = self._whole
        kv = range(whole.num_kv_heads)
        num_heads = whole.num_heads
        if heads is not None:
            kv = range(heads.first_kv_head, heads.first_kv_head + heads.num_kv_heads)
            num_heads = heads.num_heads
        group = whole.num_heads // whole.num_kv_heads
        if not kv or kv.stop > whole.num_kv_heads:
            raise PeerLost(f"KV heads {kv.start} to {kv.stop} of {whole.num_kv_heads}")
        if not num_heads or num_heads % len(kv) or num_heads > group * len(kv):
            raise PeerLost(f"{num_heads} query heads over {len(kv)} KV heads, {group} read each")
        self._heads = heads
        self._shape = replace(whole, num_heads=num_heads, num_kv_heads=len(kv))
        self._layout = self._pool.layout.part(kv)


def _is_decode(spans: Sequence[p.AskSpan]) -> bool:
    return all(span.num_rows <= DECODE_ROWS for span in spans)
