"""One channel over torch.distributed: two directed groups, a control socket, a thread for each way.

The control socket carries each message's frame up to its body, and its end is the peer's death;
a group carries the bodies. A receive is posted only for a body that was announced with a length in
range, because gloo cannot poll, closes a pair on any timeout, and aborts on too long a message.
Its calls block, so threads make them, and wait without end: how long is the caller's to say.
"""

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

import torch

from engine.comm import frame
from engine.comm.auth import Listener, Session
from engine.comm.base import Buffer, Channel
from engine.comm.sockets import greet
from engine.comm.torch_group import GROUPS, RECEIVER, SENDER, GlooGroup, SocketStore
from engine.comm.torch_inbox import TRAILER_BYTES, Inbox, tensor_bytes
from engine.errors import PeerLost

MAGIC = b"LKVTORCH"
LINGER_S = 1.0
"""how long a close waits for a peer to take what was queued for it"""
JOIN_S = 1.0
"""how long a close waits for its threads; only a group in the making takes that long"""


class TorchChannel(Channel):
    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        max_body_bytes: int,
        *,
        key: bytes,
        backend: str,
        device: int,
        dials: bool,
        timeout_s: float,
    ) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.max_body_bytes = max_body_bytes
        self._socket = sock
        self._key = key
        self._backend = backend
        self._device = device
        self._dials = dials
        self._deadline = monotonic() + timeout_s
        self._changed = threading.Condition()  # guards all that follows
        self._outbox: deque[tuple[bytes, list[bytes | memoryview], int]] = deque()
        self._inbox = Inbox(max_body_bytes)
        self._unsent_bytes = 0
        self._num_sent = self._num_received = 0
        self._fault = ""
        self._send_fault = ""
        self._is_open = False
        self._session: Session
        """set before anybody is given the channel"""
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._groups: list[GlooGroup] = []
        self._threads: list[threading.Thread] = []
        self._start(self._open_and_receive)

    def send(self, head: bytes, *body: Buffer) -> None:
        with self._changed:
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
            self._outbox.append((start, parts, body_bytes))
            self._unsent_bytes += len(start) + body_bytes
            self._changed.notify_all()

    def receive(self) -> tuple[bytes, memoryview] | None:
        with self._changed:
            message = self._inbox.take()
            self._changed.notify_all()
            if message is None and self._fault:
                raise PeerLost(self._fault)
            self._hush()
            return message

    @property
    def unsent_bytes(self) -> int:
        return self._unsent_bytes

    def close(self) -> None:
        self.close_by(monotonic() + LINGER_S)

    def close_by(self, deadline: float) -> None:
        """As ``close``; what is still queued at the deadline is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: not self._outbox, deadline - monotonic())
            self._inbox.clear()
        self._lose("closed here")
        for thread in self._threads:
            thread.join(max(0.0, deadline + JOIN_S - monotonic()))
        with self._changed:
            self._groups.clear()
            self._socket.close()
            if self._bell >= 0:
                os.close(self._bell)
                self._bell = -1

    def fileno(self) -> int:
        """Readable while the channel is ready."""
        return self._bell

    def ready(self) -> bool:
        """Whether ``receive`` has something to give or to raise."""
        return bool(self._inbox or self._fault)

    def opened(self, *, block: bool) -> bool:
        """Whether the groups are made; rings when they are. Raises PeerLost when they cannot be."""
        with self._changed:
            left_s = self._deadline - monotonic() if block else 0.0
            self._changed.wait_for(lambda: self._is_open or self._fault, left_s)
            if not self._is_open and (block or self._fault):
                raise PeerLost(self._fault or "timed out")
            self._hush()
            return self._is_open

    def _open_and_receive(self) -> None:
        try:
            outgoing, incoming = self._meet()
            with self._changed:
                if self._fault:
                    return
                self._groups += [outgoing, incoming]
                self._is_open = True
                os.eventfd_write(self._bell, 1)
                self._start(self._send_all, outgoing)
                self._changed.notify_all()
            while self._receive_one(incoming):
                pass
        except Exception as error:  # whatever torch makes of what the peer wrote
            self._lose(_first_line(error))

    def _meet(self) -> tuple[GlooGroup, GlooGroup]:
        """The groups to and from the peer, made with it at the same time, in the same order."""
        self._session = self._greet()
        store = SocketStore(self._socket, self._deadline)
        greeting = MAGIC + self._backend.encode().ljust(8)
        self._socket.sendall(greeting)
        answer = store.read(len(greeting))
        if answer != greeting:
            raise PeerLost(f"the peer speaks {answer!r} instead of {greeting!r}")
        host = self._socket.getsockname()[0]
        made: dict[int, GlooGroup] = {}
        for name, rank in (("ask", SENDER), ("answer", RECEIVER)):
            rank = rank if self._dials else 1 - rank
            # Gloo tries five times before it gives up on a peer that died after giving its address.
            timeout_s = max((self._deadline - monotonic()) / 5, 1e-3)
            made[rank] = GROUPS[self._backend](
                store, name, rank=rank, host=host, device=self._device, timeout_s=timeout_s
            )
        store.finish()
        self._socket.settimeout(None)
        return made[SENDER], made[RECEIVER]

    def _greet(self) -> Session:
        """Prove to each other that both know the key."""
        if self._dials:
            return greet(self._socket, self._key, self._deadline)
        handshake = Listener(self._key)
        while handshake.session is None:
            self._socket.settimeout(max(self._deadline - monotonic(), 1e-3))
            data = self._socket.recv(handshake.num_missing)
            if not data:
                raise PeerLost("left before it had said who it is")
            self._socket.sendall(handshake.take(data))
        return handshake.session

    def _receive_one(self, group: GlooGroup) -> bool:
        """One message from the peer into the inbox; False once the channel is closed."""
        start = self._read(frame.ALIGN_BYTES, begun=False)
        head_bytes, body_bytes = frame.parse(
            memoryview(start), 0, sequence=self._num_received, max_body_bytes=self.max_body_bytes
        )
        self._num_received += 1
        start += self._read(frame.extent(head_bytes, 0)[0] - len(start))
        frame.check_tag(memoryview(start), 0, head_bytes, self._session.receives)
        head = start[frame.HEAD_START :][:head_bytes]
        with self._changed:
            self._changed.wait_for(lambda: self._fault or self._inbox.free_start() is not None)
            at = self._inbox.free_start()
            if self._fault or at is None:
                return False
        if body_bytes:
            try:
                group.receive(self._inbox.slot(at), tensor_bytes(body_bytes))
            except RuntimeError as error:
                raise PeerLost(
                    f"closed by the peer within a message: {_first_line(error)}"
                ) from error
            if self._inbox.trailer(at, body_bytes) != start[: frame.HEADER.size]:
                raise PeerLost(f"a body of other than the announced {body_bytes} bytes came")
        with self._changed:
            if not self._fault:
                self._inbox.put(head, at, body_bytes)
                os.eventfd_write(self._bell, 1)
        return not self._fault

    def _read(self, num_bytes: int, *, begun: bool = True) -> bytes:
        data = b""
        while len(data) < num_bytes:
            more = self._socket.recv(num_bytes - len(data))
            if not more:
                raise PeerLost("closed by the peer" + " within a message" * (begun or bool(data)))
            data = data + more if data else more
        return data

    def _send_all(self, group: GlooGroup) -> None:
        staged = torch.empty(tensor_bytes(self.max_body_bytes), dtype=torch.uint8)
        view = staged.numpy().data
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._fault)
                if self._fault:
                    return
                start, parts, body_bytes = self._outbox[0]
            try:
                self._socket.sendall(start)
                if body_bytes:
                    at = 0
                    for part in parts:
                        view[at : at + len(part)] = part
                        at += len(part)
                    end = tensor_bytes(body_bytes)
                    view[end - TRAILER_BYTES :][: frame.HEADER.size] = start[: frame.HEADER.size]
                    group.send(staged[:end])
            except (OSError, RuntimeError) as error:
                with self._changed:
                    # Not lost yet: what the peer sent before is still to be received.
                    self._send_fault = f"{self.peer}: {_first_line(error)}"
                    self._drop_unsent()
                return
            with self._changed:
                if self._outbox:
                    self._outbox.popleft()
                    self._unsent_bytes -= len(start) + body_bytes
                self._changed.notify_all()

    def _lose(self, fault: str) -> None:
        """End both directions and wake both threads."""
        with self._changed:
            if not self._fault:
                self._fault = f"{self.peer}: {fault}"
                os.eventfd_write(self._bell, 1)
            self._drop_unsent()
            groups = list(self._groups)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        for group in groups:
            group.abort()

    def _hush(self) -> None:
        if not self.ready():
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)

    def _drop_unsent(self) -> None:
        self._outbox.clear()
        self._unsent_bytes = 0
        self._changed.notify_all()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(
            target=target,
            args=arguments,
            name=f"torch channel {self.peer}",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()


def _first_line(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).partition("\n")[0]
