"""DistAttention, the holder's side: a pool process's one thread of messages and partials.

Takes messages and units of computation in turn, so "check the books, then compute" is atomic. It
waits for nobody: not for its own step process, not for another instance.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine import protocol as p
from engine.attention.base import Kernel
from engine.attention.tree import Piece, Segment
from engine.attention.turns import Turns
from engine.comm.base import Buffer, Channel, Transport
from engine.core import ModelShape
from engine.errors import PeerLost
from engine.memory.base import MemoryPool
from engine.memory.effects import CopyIn, CopyOut, LosePeer, Output, Reply, Zero
from engine.memory.loans import LoanFenced

if TYPE_CHECKING:
    from engine.memory.rmanager import RManager

log = logging.getLogger(__name__)

_NO_BODY = memoryview(b"")

DECODE_ROWS = 4
"""a slice whose segments are all this short is a decode and goes first"""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is computed without looking at messages: a prefill's segment, or a whole decode."""

    piece: Piece
    row_start: int
    num_rows: int


@dataclass(slots=True)
class _Peer:
    channel: Channel
    step: int = -1
    declined: int = -1
    """a step that was answered Busy: it asks in vain"""
    scale: float = 1.0
    slices: list[list[p.AskSpan]] = field(default_factory=list)
    units: dict[int, tuple[list[Any], list[_Unit]]] = field(default_factory=dict)
    """slice -> (the resolved tables they were built from, what to compute)"""


@dataclass(slots=True)
class _Job:
    """One Ask under way: its units are computed one at a time."""

    ask: p.Ask
    q_THD: NDArray[Any]
    spans: list[p.AskSpan]
    next_unit: int = 0
    parts: list[Buffer] = field(default_factory=list)
    lses: list[Buffer] = field(default_factory=list)


class PoolServer:
    """Serves one pool: the books' messages and partials for others."""

    def __init__(
        self,
        *,
        transport: Transport,
        rmanager: RManager,
        pool: MemoryPool,
        kernel: Kernel,
        shape: ModelShape,
        clock: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._rmanager = rmanager
        self._pool = pool
        self._kernel = kernel
        self._shape = shape
        self._clock = clock
        self._query_dtype = np.dtype(
            {"float32": "f4", "float16": "f2", "bfloat16": "u2"}[pool.layout.dtype]
        )
        self._peers: dict[int, _Peer] = {}
        self._next_peer = 1
        self._decodes: Turns[_Job] = Turns()
        self._prefills: Turns[_Job] = Turns()
        self._strained_until = 0.0
        self._last_leaf = pool.layout.blocks_for(shape.max_positions)

    def serve_once(self, timeout_s: float = 0.0, also: Sequence[int] = ()) -> bool:
        """Take what came, compute one unit; waits only when there is nothing to do."""
        busy = bool(self._decodes or self._prefills)
        ready = self._transport.wait(
            [peer.channel for peer in self._peers.values()], 0.0 if busy else timeout_s, also
        )
        for channel in self._transport.accept():
            self._peers[self._next_peer] = _Peer(channel)
            self._next_peer += 1
        for number, peer in list(self._peers.items()):
            if peer.channel in ready:
                self._drain(number, peer)
        self._perform(self._rmanager.tick(self._clock()))
        return self._compute_unit() or bool(ready)

    def call_home(self) -> None:
        """The instance leaves: whoever has borrowed here is asked to give it back."""
        self._perform(self._rmanager.call_home(self._clock()))

    def close(self) -> None:
        self._peers.clear()
        self._transport.close()

    def _drain(self, number: int, peer: _Peer) -> None:
        try:
            while (got := peer.channel.receive()) is not None:
                self._take(number, peer, p.TO_POOL(got[0]), got[1])
                if number not in self._peers:
                    return
        except PeerLost:
            self._lose(number)

    def _take(self, number: int, peer: _Peer, message: p.Message, body: memoryview) -> None:
        match message:
            case p.Begin():
                for span in chain.from_iterable(message.slices):
                    last = span.first_position + span.num_rows
                    if last > self._shape.max_positions:
                        raise PeerLost(f"position {last} of {self._shape.max_positions}")
                peer.step, peer.scale = message.step, message.scale
                peer.slices, peer.units = message.slices, {}
            case p.Ask():
                self._enqueue(number, peer, message, body)
            case p.Strain():
                self._strain(number, message)
            case p.Write() if message.last and message.checksum:
                self._write_checked(number, message, body)
            case _:
                now = self._clock()
                self._perform(self._rmanager.handle(number, message, now, len(body)), body)

    def _strain(self, number: int, strain: p.Strain) -> None:
        """The own step wants its tokens: what others ask has to wait."""
        if not self._rmanager.is_step(number):
            raise PeerLost("Strain is for the pool's own step only")
        self._strained_until = self._clock() + strain.for_s

    def _write_checked(self, number: int, write: p.Write, body: memoryview) -> None:
        """The last part of a block, which must then be what its owner computed."""
        now = self._clock()
        outputs = self._rmanager.handle(number, write, now, len(body))
        for copy in [out for out in outputs if isinstance(out, CopyIn)]:
            self._perform([copy], body)
            found = zlib.crc32(self._pool.block(copy.block)) + 1
            if found != write.checksum:
                raise PeerLost(f"slot {write.slot} of loan {write.loan}: its checksum is {found}")
        self._perform([out for out in outputs if not isinstance(out, CopyIn)])

    def _enqueue(self, number: int, peer: _Peer, ask: p.Ask, body: memoryview) -> None:
        shape = self._shape
        if ask.step != peer.step or ask.slice >= len(peer.slices) or ask.layer >= shape.num_layers:
            raise PeerLost(f"asked for step {ask.step} slice {ask.slice}, which was not begun")
        if ask.step == peer.declined:
            return
        left_s = self._strained_until - self._clock()
        if left_s > 0:
            peer.declined = ask.step
            self._send(number, p.Busy(ask.step, left_s))
            return
        spans = peer.slices[ask.slice]
        rows = sum(span.num_rows for span in spans)
        expected = rows * shape.num_heads * shape.head_dim * self._query_dtype.itemsize
        if len(body) != expected:
            raise PeerLost(f"queries of {len(body)} bytes, {expected} wanted for {rows} rows")
        q_THD = np.frombuffer(bytes(body), self._query_dtype)
        job = _Job(ask, q_THD.reshape(rows, shape.num_heads, shape.head_dim), spans)
        short = all(span.num_rows <= DECODE_ROWS for span in spans)
        (self._decodes if short else self._prefills).append(number, job)

    def _compute_unit(self) -> bool:
        """One unit of the next job; decodes first, prefills take turns."""
        queue = self._decodes or self._prefills
        if not queue:
            return False
        number, job = queue.take()
        peer = self._peers.get(number)
        if peer is None or job.ask.step != peer.step:
            return True  # lost, or given up by its debtor
        try:
            units = self._units(number, job, peer, whole=queue is self._decodes)
        except LoanFenced as error:
            self._send(number, p.FencedOff(job.ask.step, list(error.loans), str(error)))
            return True
        except PeerLost as error:
            log.warning("peer %d is cut off: %s", number, error)
            self._lose(number)
            return True
        self._compute(job, units[job.next_unit], peer.scale)
        if job.next_unit < len(units):
            queue.put_back(number, job)
            return True
        answer = p.Answer(job.ask.step, job.ask.layer, job.ask.slice)
        self._send(number, answer, *job.parts, *job.lses)
        return True

    def _units(self, number: int, job: _Job, peer: _Peer, *, whole: bool) -> list[_Unit]:
        """The job's units, checked against the books now; raises LoanFenced, PeerLost."""
        now = self._clock()
        tables = [
            self._rmanager.resolve(number, span.sequence, span.version, now) for span in job.spans
        ]
        if any(table and table[-1][0] > self._last_leaf for table in tables):
            raise PeerLost(f"a table names a leaf behind leaf {self._last_leaf}, the last possible")
        known = peer.units.get(job.ask.slice)
        if known is not None and known[0] == tables:
            return known[1]
        starts = list(accumulate((span.num_rows for span in job.spans), initial=0))
        segments = [
            Segment(
                start if whole else 0,
                span.num_rows,
                span.first_position,
                tuple(leaf for leaf, _ in table),
                tuple(self._pool.block_address(block) for _, block in table),
            )
            for start, span, table in zip(starts, job.spans, tables, strict=False)
        ]
        if whole:
            units = [_Unit(Piece.of(segments), 0, starts[-1])]
        else:
            units = [
                _Unit(Piece.of([segment]), start, segment.num_rows)
                for start, segment in zip(starts, segments, strict=False)
            ]
        peer.units[job.ask.slice] = (tables, units)
        return units

    def _compute(self, job: _Job, unit: _Unit, scale: float) -> None:
        rows, heads, dim = unit.piece.num_node_rows, self._shape.num_heads, self._shape.head_dim
        out_RHD = np.empty((rows, heads, dim), np.float32)
        lse_RH = np.empty((rows, heads), np.float32)
        q_THD = job.q_THD[unit.row_start : unit.row_start + unit.num_rows]
        layout = self._pool.layout
        self._kernel.attend(unit.piece, q_THD, layout, job.ask.layer, scale, out_RHD, lse_RH)
        job.parts.append(out_RHD.data.cast("B"))
        job.lses.append(lse_RH.data.cast("B"))
        job.next_unit += 1

    def _perform(self, outputs: Sequence[Output], body: memoryview = _NO_BODY) -> None:
        """Carry out what the books say, in order."""
        for output in outputs:
            match output:
                case Reply():
                    self._send(output.peer, output.message)
                case CopyIn():
                    block = self._pool.block(output.block)
                    block[output.offset : output.offset + len(body)] = body
                case CopyOut():
                    block = self._pool.block(output.block)
                    data = bytes(block[output.offset : output.offset + output.num_bytes])
                    self._send(output.peer, output.message, data)
                case Zero():
                    block = self._pool.block(output.block)
                    block[:] = bytes(len(block))
                case LosePeer():
                    log.warning("peer %d is cut off: %s", output.peer, output.reason)
                    self._lose(output.peer)

    def _send(self, number: int, message: p.Message, *body: Buffer) -> None:
        peer = self._peers.get(number)
        if peer is None:
            return
        try:
            peer.channel.send(p.encode(message), *body)
        except PeerLost:
            self._lose(number)

    def _lose(self, number: int) -> None:
        peer = self._peers.pop(number, None)
        if peer is not None:
            self._decodes.forget(number)
            self._prefills.forget(number)
            peer.channel.close()
            self._perform(self._rmanager.peer_lost(number, self._clock()))
