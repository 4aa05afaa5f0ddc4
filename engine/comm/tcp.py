"""Transport between hosts: plain non-blocking TCP sockets, one a channel."""

import contextlib
import mmap
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import cast

from engine.comm import frame
from engine.comm.auth import Session
from engine.comm.base import Buffer, Channel, Transport
from engine.comm.polling import READ, WRITE, Poller
from engine.comm.sockets import address_of, dial_member, listener_at
from engine.comm.strangers import Strangers
from engine.errors import PeerLost

MAX_PARTS = 64
"""buffers handed to the kernel at once"""


class TcpChannel(Channel):
    def __init__(
        self, sock: socket.socket, peer: str, max_body_bytes: int, session: Session
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.max_body_bytes = max_body_bytes
        self._socket = sock
        self._session = session
        self._max_frame_bytes = frame.max_frame_bytes(max_body_bytes)
        # Three frames: the one handed out and the next fit wherever the first of them starts.
        self._memory = mmap.mmap(-1, 3 * self._max_frame_bytes)
        self._buffer = memoryview(self._memory)
        self._start = self._end = 0
        self._held_bytes = 0
        self._body: memoryview | None = None
        self._outbox: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._num_sent = self._num_received = 0
        self._fault = ""
        self._send_fault = ""

    def send(self, head: bytes, *body: Buffer) -> None:
        if self._fault or self._send_fault:
            raise PeerLost(self._fault or self._send_fault)
        start, parts, body_bytes = frame.pack(
            head,
            body,
            sequence=self._num_sent,
            max_body_bytes=self.max_body_bytes,
            seal=self._session.sends,
        )
        self._num_sent += 1
        pad_bytes = -body_bytes % frame.ALIGN_BYTES
        views = [view for view in (start, *parts, frame.PADS[pad_bytes]) if view]
        self._outbox.extend(views)
        self._unsent_bytes += len(start) + body_bytes + pad_bytes
        if len(self._outbox) == len(views):
            self.flush()
            if self._send_fault:
                raise PeerLost(self._send_fault)

    def receive(self) -> tuple[bytes, memoryview] | None:
        self._give_back()
        lengths = self._whole_frame()
        if lengths is None:
            self.fill()
            lengths = self._whole_frame()
        if lengths is None:
            if self._fault:
                raise PeerLost(self._fault)
            return None
        head_bytes, body_bytes = lengths
        at = self._start
        try:
            frame.check_tag(self._buffer, at, head_bytes, self._session.receives)
        except PeerLost as error:
            self._end = at
            self._lose(str(error))
            raise PeerLost(self._fault) from None
        body_start, self._held_bytes = frame.extent(head_bytes, body_bytes)
        self._num_received += 1
        head = bytes(self._buffer[at + frame.HEAD_START :][:head_bytes])
        self._body = self._buffer[at + body_start : at + body_start + body_bytes]
        return head, self._body

    @property
    def unsent_bytes(self) -> int:
        return self._unsent_bytes

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self.flush()
        self._lose("closed here")
        self._start = self._end = self._held_bytes = 0
        with contextlib.suppress(BufferError):  # a body still in use keeps the memory
            if self._body is not None:
                self._body.release()
            self._buffer.release()
            self._memory.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> bool:
        """Whether ``receive`` has something to give or to raise, without asking the kernel."""
        return self._whole_frame() is not None or bool(self._fault)

    def flush(self) -> None:
        """Hand queued bytes to the kernel, as many as it takes."""
        while self._outbox:
            try:
                num_bytes = self._socket.sendmsg(islice(self._outbox, MAX_PARTS))
            except BlockingIOError:
                return
            except OSError as error:
                # Not lost yet: what the peer sent before is still to be received.
                self._send_fault = f"{self.peer}: {error.strerror}"
                self._outbox.clear()
                self._unsent_bytes = 0
                return
            self._unsent_bytes -= num_bytes
            while num_bytes:
                part = self._outbox.popleft()
                if len(part) > num_bytes:
                    self._outbox.appendleft(memoryview(part)[num_bytes:])
                num_bytes = max(0, num_bytes - len(part))

    def fill(self) -> None:
        """Take what the kernel has, at most the free room."""
        if self._fault:
            return
        assert self._end < len(self._buffer), "a whole frame was left unread"
        try:
            num_bytes = self._socket.recv_into(self._buffer[self._end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        self._end += num_bytes
        if not num_bytes:
            partial = self._end - self._start - self._held_bytes
            self._lose("closed by the peer" + " within a message" * bool(partial))

    def _whole_frame(self) -> tuple[int, int] | None:
        """Lengths of the next frame when all of it is there."""
        at = self._start + self._held_bytes
        if self._end - at < frame.HEADER.size:
            return None
        try:
            lengths = frame.parse(
                self._buffer, at, sequence=self._num_received, max_body_bytes=self.max_body_bytes
            )
        except PeerLost as error:
            self._end = at
            self._lose(str(error))
            return None
        return lengths if frame.extent(*lengths)[1] <= self._end - at else None

    def _give_back(self) -> None:
        """Reclaim the message handed out last, and move the rest down when room gets short."""
        if self._body is not None:
            with contextlib.suppress(BufferError):
                self._body.release()
            self._body = None
        self._start += self._held_bytes
        self._held_bytes = 0
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start > self._max_frame_bytes:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest

    def _lose(self, fault: str) -> None:
        self._fault = self._fault or f"{self.peer}: {fault}"
        self._outbox.clear()
        self._unsent_bytes = 0
        self._socket.close()


class TcpTransport(Transport):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        host: str = "127.0.0.1"
        """interface to listen on; peers are told exactly this address"""
        port: int = 0
        """0 takes a free one"""
        max_body_bytes: int = 1 << 20
        spin_s: float = 20e-6
        """how long to ask again and again before sleeping; 0 where processes outnumber cores"""

    def __init__(
        self,
        config: Config,
        *,
        region: memoryview | None = None,
        region_fd: int | None = None,
        key: bytes = b"",
    ) -> None:
        del region, region_fd  # nobody maps memory over a network
        frame.max_frame_bytes(config.max_body_bytes)
        self.config = config
        self._key = key
        self._strangers = Strangers("tcp", key)
        self._spin_s = config.spin_s if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._listener: socket.socket | None = None
        self._channels: list[TcpChannel] = []
        self._poller = Poller()

    def listen(self) -> str:
        assert self._listener is None
        self._listener = listener_at("tcp", self.config.host, self.config.port)
        return address_of("tcp", self._listener.getsockname())

    def accept(self) -> list[Channel]:
        if self._listener is None:
            return []
        return [self._add(*member) for member in self._strangers.meet(self._listener)]

    def connect(self, address: str, timeout_s: float) -> Channel:
        return self._add(*dial_member("tcp", address, self._key, timeout_s))

    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        mine = cast(Sequence[TcpChannel], channels)
        now = monotonic()
        spin_until, deadline = now + min(self._spin_s, timeout_s), now + timeout_s
        while True:
            ready: list[Channel] = []
            asked: dict[int, TcpChannel] = {}
            watched = dict.fromkeys(also, READ)
            if self._listener is not None:
                watched[self._listener.fileno()] = READ
                watched |= dict.fromkeys(self._strangers.filenos(), READ)
            for channel in mine:
                if channel.ready():
                    ready.append(channel)
                else:
                    asked[channel.fileno()] = channel
                    watched[channel.fileno()] = READ | WRITE if channel.unsent_bytes else READ
            left = 0.0 if ready or now < spin_until else max(0.0, deadline - now)
            interrupted = False
            for fd, events in self._poller.wait(watched, left):
                if fd not in asked:
                    interrupted = True
                    continue
                if events & WRITE:
                    asked[fd].flush()
                if events & ~WRITE:
                    asked[fd].fill()
            ready += [channel for channel in asked.values() if channel.ready()]
            now = monotonic()
            if ready or interrupted or now >= deadline:
                return ready

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._strangers.close()
        for channel in self._channels:
            channel.close()
        self._channels.clear()

    def _add(self, sock: socket.socket, peer: str, session: Session) -> TcpChannel:
        channel = TcpChannel(sock, peer, self.config.max_body_bytes, session)
        self._channels = [old for old in self._channels if old.fileno() >= 0]
        self._channels.append(channel)
        return channel
