"""A channel whose large bodies are written into the peer's memory by NIXL, one-sided.

Everything else is a TcpChannel's: small messages, order, tags, the end of a peer. Where a body was
written, and that it is there, is told by a frame of its own kind among the others:

    sender -> receiver   WANT       a window, because a large body came along
    receiver -> sender   OFFER      its address, its length, NIXL's card of it
    sender -> receiver   WRITTEN    a message whose body lies at this offset of the window
    receiver -> sender   TAKEN      that body was read: its place is free
    sender -> receiver   QUIET      nothing will be written any more

Until there is a window, or where NIXL does not reach, bodies go through the socket.
"""

import contextlib
import logging
import socket
import struct
from collections import deque
from dataclasses import dataclass
from time import monotonic, sleep

from engine.comm import frame
from engine.comm.auth import Session
from engine.comm.base import Buffer
from engine.comm.nixl_agent import Write
from engine.comm.nixl_window import Memory, Stock, Window
from engine.comm.tcp_channel import TcpChannel
from engine.errors import PeerLost

log = logging.getLogger(__name__)

WRITTEN, WANT, OFFER, TAKEN, QUIET, NUM_KINDS = range(1, 7)
PLACE = struct.Struct("<QQ")
"""offset in a window, or address, and number of bytes"""
LINGER_S = 0.05
"""how long a close waits for what is being written"""
LOOK_EVERY_S = 50e-6


@dataclass(frozen=True, slots=True)
class Bulk:
    """What the channels of a transport share."""

    stock: Stock
    region: range
    """addresses of the pool, which NIXL knows"""
    least_bytes: int
    """smaller bodies go through the socket"""


@dataclass(slots=True)
class _Message:
    """One that waits for its body to be written, or behind such a one."""

    head: bytes
    parts: list[bytes | memoryview]
    is_large: bool
    offset: int = 0
    write: Write | None = None

    def __len__(self) -> int:
        return len(self.head) + sum(map(len, self.parts))


class NixlChannel(TcpChannel):
    num_kinds = NUM_KINDS

    def __init__(
        self, sock: socket.socket, peer: str, max_body_bytes: int, session: Session, bulk: Bulk
    ) -> None:
        super().__init__(sock, peer, max_body_bytes, session)
        self._bulk = bulk
        self._window: Window | None = None
        self._wanted = False
        self._inbound: Memory | None = None
        self._inbound_is_quiet = False
        self._kind = frame.MESSAGE
        self._is_read = False
        """the body handed out last lies in the window"""
        self._waiting: deque[_Message] = deque()
        self._unwritten: deque[_Message] = deque()
        """those of the waiting that want a place in the window"""
        self._waiting_bytes = 0
        self._has_left_writes = False
        self.written_bytes = 0
        """of bodies, by NIXL"""

    def send(self, head: bytes, *body: Buffer) -> None:
        is_large = self._is_large(head, body)
        if not is_large and not self._waiting:
            super().send(head, *body)
            return
        if self._fault or self._send_fault:
            raise PeerLost(self._fault or self._send_fault)
        message = _Message(head, [frame.flat(part) for part in body], is_large)
        frame.check_sizes(len(head), len(message) - len(head), self.max_body_bytes)
        self._waiting.append(message)
        if is_large:
            self._unwritten.append(message)
        self._waiting_bytes += len(message)
        self.go_on()
        if self._send_fault:
            raise PeerLost(self._send_fault)

    def receive(self) -> tuple[bytes, memoryview] | None:
        message = super().receive()
        if message is None or self._kind == frame.MESSAGE:
            return message
        head = message[0]
        try:
            offset, num_bytes = PLACE.unpack(head[: PLACE.size].ljust(PLACE.size))
            if num_bytes > self.max_body_bytes:
                raise PeerLost(
                    f"a body of {num_bytes} bytes; max_body_bytes is {self.max_body_bytes}"
                )
            if self._inbound is None:
                raise PeerLost("writes without a window")
            body = self._inbound.body(offset, num_bytes)
        except PeerLost as error:
            self._lose(str(error))
            raise PeerLost(self._fault) from None
        self._is_read = True
        return head[PLACE.size :], body

    def native(self) -> int:
        self._give_back()  # which may have something to say, before the library does
        return super().native()

    @property
    def unsent_bytes(self) -> int:
        return self._waiting_bytes + self._outbox_bytes()

    def close(self) -> None:
        self.close_by(monotonic() + LINGER_S)

    def close_by(self, deadline: float) -> None:
        """Wait no longer than that for what is being written."""
        while self.is_writing() and monotonic() < deadline:
            sleep(LOOK_EVERY_S)
            self.go_on()
        window, self._window = self._window, None
        if window is not None:
            self._leave_writes()
            if not (self._has_left_writes or self._fault or self._send_fault):
                self._say(QUIET, b"")
            window.close(quiet=not self._has_left_writes)
        super().close()
        if self._inbound is not None:
            inbound, self._inbound = self._inbound, None
            self._bulk.stock.give_back(inbound, quiet=self._inbound_is_quiet)

    def is_writing(self) -> bool:
        """Whether ``go_on`` has to ask again, since nothing else tells of a write's end."""
        return any(message.write is not None for message in self._waiting)

    def go_on(self) -> None:
        """Write what there is room for, and tell what is written; the order stays."""
        if not self._waiting or self._send_fault:
            return
        try:
            self._begin_writes()
            self._tell_written()
        except PeerLost as error:
            if self.written_bytes:
                self._stop_sending(f"{self.peer}: {error}")
            else:
                self._do_without(str(error))

    def _is_large(self, head: bytes, body: tuple[Buffer, ...]) -> bool:
        """Whether NIXL is to write this body; asks for a window with the first one."""
        num_bytes = sum(memoryview(part).nbytes for part in body)
        if num_bytes < self._bulk.least_bytes or len(head) + PLACE.size > frame.HEAD_BYTES:
            return False
        if self._window is None:
            if not self._wanted and not self._fault and not self._send_fault:
                self._wanted = True
                self._say(WANT, b"")
            return False
        return num_bytes <= self._window.places.num_bytes

    def _begin_writes(self) -> None:
        while self._unwritten:
            assert self._window is not None
            message = self._unwritten[0]
            num_bytes = len(message) - len(message.head)
            offset = self._window.places.take(num_bytes)
            if offset is None:
                return
            message.offset = offset
            message.write = self._window.write(offset, message.parts, self._bulk.region)
            self._unwritten.popleft()

    def _tell_written(self) -> None:
        while self._waiting and self._is_written(self._waiting[0]):
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message)
            self._tell(message)

    def _do_without(self, why: str) -> None:
        """The first write failed: not the peer's end perhaps, but a way that is barred."""
        log.warning("%s: bodies go through the socket: %s", self.peer, why)
        for message in self._waiting:
            if message.write is not None:
                message.write.end()
            message.write, message.is_large = None, False
        self._unwritten.clear()
        window, self._window = self._window, None
        if window is not None:
            window.close(quiet=False)
        self._tell_written()

    def _is_written(self, message: _Message) -> bool:
        if not message.is_large:
            return True
        return message.write is not None and message.write.is_done()

    def _tell(self, message: _Message) -> None:
        if message.write is None:
            self._say(frame.MESSAGE, message.head, message.parts)
            return
        message.write.end()
        num_bytes = len(message) - len(message.head)
        self.written_bytes += num_bytes
        self._say(WRITTEN, PLACE.pack(message.offset, num_bytes) + message.head)

    def _whole_frame(self) -> tuple[int, int] | None:
        """The next message's; what comes before it is heard on the way."""
        while (lengths := super()._whole_frame()) is not None:
            stream = self._stream
            at = stream.start + self._held_bytes
            self._kind = frame.kind_of(self._buffer, at)
            if self._kind in (frame.MESSAGE, WRITTEN):
                break
            head_bytes, body_bytes = lengths
            try:
                frame.check_tag(self._buffer, at, head_bytes, self._session.receives)
                self._hear(self._kind, bytes(self._buffer[at + frame.HEAD_START :][:head_bytes]))
            except PeerLost as error:
                stream.end = at
                self._lose(str(error))
                return None
            stream.num_received += 1
            self._held_bytes += frame.extent(head_bytes, body_bytes)[1]
            if self._body is None:
                self._give_back()
        return lengths

    def _hear(self, kind: int, head: bytes) -> None:
        """Raises PeerLost for what makes no sense."""
        if kind == WANT and self._inbound is None:
            self._inbound = self._bulk.stock.take()
            place = PLACE.pack(self._inbound.address, len(self._inbound.view))
            with contextlib.suppress(ValueError):
                self._say(OFFER, place + self._inbound.card)
        elif kind == OFFER and self._wanted and self._window is None and len(head) > PLACE.size:
            try:
                self._window = Window(
                    self._bulk.stock, head[PLACE.size :], *PLACE.unpack(head[: PLACE.size])
                )
            except PeerLost as error:
                self._do_without(str(error))
        elif kind == TAKEN and self._window is not None:
            self._window.places.give_back()
            self.go_on()
        elif kind == QUIET and self._inbound is not None:
            self._inbound_is_quiet = True
        else:
            raise PeerLost(f"a frame of kind {kind} and {len(head)} bytes makes no sense here")

    def _give_back(self) -> None:
        if self._is_read:
            self._is_read = False
            if not self._fault and not self._send_fault:
                self._say(TAKEN, b"")
        super()._give_back()

    def _stop_sending(self, fault: str) -> None:
        self._leave_writes()
        super()._stop_sending(fault)

    def _lose(self, fault: str) -> None:
        self._leave_writes()
        super()._lose(fault)

    def _leave_writes(self) -> None:
        for message in self._waiting:
            if message.write is not None:
                message.write.end()
                self._has_left_writes = True
        self._waiting.clear()
        self._unwritten.clear()
        self._waiting_bytes = 0
