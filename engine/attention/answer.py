"""DistAttention, the holder's side: a pool process's one thread of messages and partials.

Takes messages and units of computation in turn, so "check the books, then compute" is atomic. It
waits for nobody: not for its own step process, not for another instance.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine import protocol as p
from engine.attention.asked import Asked, Unit
from engine.attention.base import Kernel
from engine.attention.kernel_native import NativeKernel
from engine.attention.native_answers import Answering, NativeAnswers
from engine.attention.turns import Turns
from engine.comm.base import Buffer, Channel, Transport
from engine.comm.watched import Watched
from engine.core import ModelShape
from engine.errors import PeerLost
from engine.memory.base import MemoryPool
from engine.memory.effects import CopyIn, CopyOut, LosePeer, Output, Reply, Zero
from engine.memory.loans import LoanFenced

if TYPE_CHECKING:
    from engine.memory.rmanager import RManager

log = logging.getLogger(__name__)

_NO_BODY = memoryview(b"")

WHILE_S = 0.05
"""for so long native answers may go on without asking the books again"""


@dataclass(slots=True)
class _Peer:
    channel: Channel
    asked: Asked
    declined: int = -1
    """a step that was answered Busy: it asks in vain"""


@dataclass(slots=True)
class _Job:
    """One Ask under way: its units are computed one at a time."""

    ask: p.Ask
    q_THD: NDArray[Any]
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
        tells_evictions: bool = False,
    ) -> None:
        """``tells_evictions``: the own step hears what is reclaimed of the cached blocks."""
        self._tells_evictions = tells_evictions
        self._transport = transport
        self._rmanager = rmanager
        self._pool = pool
        self._kernel = kernel
        self._shape = shape
        self._clock = clock
        self._peers: dict[int, _Peer] = {}
        self._next_peer = 1
        self._decodes: Turns[_Job] = Turns()
        self._prefills: Turns[_Job] = Turns()
        self._strained_until = 0.0
        self.counts: Counter[str] = Counter()
        """messages that it said, by kind; the native library's answers apart"""
        self._answering: Answering | None = None
        if isinstance(kernel, NativeKernel):
            self._answering = Answering()
            transport.watch = self._watch

    def serve_once(self, timeout_s: float = 0.0, also: Sequence[int] = ()) -> bool:
        """Take what came, compute one unit; waits only when there is nothing to do."""
        busy = bool(self._decodes or self._prefills)
        ready = self._transport.wait(
            [peer.channel for peer in self._peers.values()], 0.0 if busy else timeout_s, also
        )
        for channel in self._transport.accept():
            asked = Asked(
                self._next_peer, rmanager=self._rmanager, pool=self._pool, shape=self._shape
            )
            self._peers[self._next_peer] = _Peer(channel, asked)
            self._next_peer += 1
        for number, peer in list(self._peers.items()):
            if peer.channel in ready:
                self._drain(number, peer)
        self._perform(self._rmanager.tick(self._clock()))
        if self._tells_evictions and (evicted := self._rmanager.books.evicted):
            for number in [one for one in self._peers if self._rmanager.is_step(one)]:
                self._send(number, p.Evicted(list(evicted)))
            evicted.clear()
        return self._compute_unit() or bool(ready)

    def lend(self, on: bool) -> None:
        """Whether it lends; if not, whoever has borrowed here is asked to give it back."""
        self._perform(self._rmanager.lend(on, self._clock()))

    def close(self) -> None:
        self._peers.clear()
        self._transport.close()

    def _drain(self, number: int, peer: _Peer) -> None:
        try:
            while True:
                if self._answering and (call := self._native_call(peer)):
                    self._answering.answer(call)
                if (got := peer.channel.receive()) is None:
                    return
                if self._answer_known(peer, *got):
                    continue
                self._take(number, peer, p.TO_POOL(got[0]), got[1])
                if number not in self._peers:
                    return
        except PeerLost:
            self._lose(number)

    def _take(self, number: int, peer: _Peer, message: p.Message, body: memoryview) -> None:
        match message:
            case p.Begin():
                peer.asked.begin(message)
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
            found = zlib.crc32(self._pool.read(copy.block)) + 1
            if found != write.checksum:
                raise PeerLost(f"slot {write.slot} of loan {write.loan}: its checksum is {found}")
        self._perform([out for out in outputs if not isinstance(out, CopyIn)])

    def _enqueue(self, number: int, peer: _Peer, ask: p.Ask, body: memoryview) -> None:
        rows = peer.asked.take(ask, len(body))
        if ask.step == peer.declined:
            return
        now = self._clock()
        if now < self._strained_until:
            peer.declined = ask.step
            self._send(number, p.Busy(ask.step, self._strained_until - now))
            return
        if isinstance(self._kernel, NativeKernel):
            peer.asked.native(self._kernel, now + WHILE_S)  # for what this step asks next
        q_THD = np.frombuffer(bytes(body), peer.asked.query_dtype)
        job = _Job(ask, q_THD.reshape(rows, peer.asked.num_heads, self._shape.head_dim))
        queue = self._decodes if peer.asked.is_decode(ask.slice) else self._prefills
        queue.append(number, job)

    def _compute_unit(self) -> bool:
        """One unit of the next job; decodes first, prefills take turns."""
        queue = self._decodes or self._prefills
        if not queue:
            return False
        number, job = queue.take()
        peer = self._peers.get(number)
        if peer is None or job.ask.step != peer.asked.step:
            return True  # lost, or given up by its debtor
        try:
            units = peer.asked.units(job.ask.slice, self._clock())
        except LoanFenced as error:
            self._send(number, p.FencedOff(job.ask.step, list(error.loans), str(error)))
            return True
        except PeerLost as error:
            log.warning("peer %d is cut off: %s", number, error)
            self._lose(number)
            return True
        self._compute(job, units[job.next_unit], peer.asked)
        if job.next_unit < len(units):
            queue.put_back(number, job)
            return True
        answer = p.Answer(job.ask.step, job.ask.layer, job.ask.slice)
        self._send(number, answer, *job.parts, *job.lses)
        return True

    def _answer_known(self, peer: _Peer, head: bytes, body: memoryview) -> bool:
        """Answer at once where this is the ask that was due; raises PeerLost."""
        if not peer.asked.is_next(head):
            return False
        native = self._native(peer)
        answer = native.answer_next(body) if native else None
        if answer is None:
            return False
        peer.channel.send(*answer)
        return True

    def _native_call(self, peer: _Peer) -> int:
        """An AnswersCall for what this peer asks next, or 0."""
        channel = peer.channel.native()
        native = self._native(peer) if channel else None
        return native.over(channel) if native else 0

    def _native(self, peer: _Peer) -> NativeAnswers | None:
        """What may be answered to this peer for a while without looking at the books again."""
        now = self._clock()
        if self._decodes or peer.declined == peer.asked.step or self._strained_until > now:
            return None
        assert isinstance(self._kernel, NativeKernel)
        return peer.asked.native(self._kernel, now + WHILE_S)

    def _watch(self, watched: Watched) -> int:
        """Answers while the transport watches its channels; see ``Transport.watch``."""
        assert self._answering is not None
        calls = [call for peer in self._peers.values() if (call := self._native_call(peer))]
        return self._answering.watch(calls, watched, int(1e9 * WHILE_S))

    def _compute(self, job: _Job, unit: Unit, asked: Asked) -> None:
        rows, (_, heads, dim) = unit.piece.num_node_rows, job.q_THD.shape
        out_RHD = np.empty((rows, heads, dim), np.float32)
        lse_RH = np.empty((rows, heads), np.float32)
        q_THD = job.q_THD[unit.row_start : unit.row_start + unit.num_rows]
        self._kernel.attend(
            unit.piece, q_THD, asked.layout, job.ask.layer, asked.scale, out_RHD, lse_RH
        )
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
                    self._pool.write(output.block, output.offset, body)
                case CopyOut():
                    end = output.offset + output.num_bytes
                    data = bytes(self._pool.read(output.block, output.offset, end))
                    self._send(output.peer, output.message, data)
                case Zero():
                    self._pool.write(output.block, 0, bytes(self._pool.layout.block_bytes))
                case LosePeer():
                    log.warning("peer %d is cut off: %s", output.peer, output.reason)
                    self._lose(output.peer)

    def _send(self, number: int, message: p.Message, *body: Buffer) -> None:
        peer = self._peers.get(number)
        if peer is None:
            return
        self.counts[f"said:{type(message).__name__}"] += 1
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
