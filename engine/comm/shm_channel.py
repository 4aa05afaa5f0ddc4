"""A channel of two shared rings, one a direction, and the Unix socket that ties them together.

The socket carries bells for a peer that has declared itself asleep, and its end is the peer's end.
"""

import contextlib
import ctypes
import mmap
import socket
from collections import deque
from time import monotonic

from engine.comm import frame
from engine.comm.base import Buffer, Channel, NativeChannel
from engine.comm.ring import RingEnd, RingReader, RingWriter
from engine.errors import PeerLost

SOCKET_EVERY_S = 1e-3
"""how often sockets are looked at while messages keep coming"""


class Rings(ctypes.Structure):
    """The same fields as Rings in native/ring.h."""

    _fields_ = (("out", RingEnd), ("into", RingEnd), ("bell_fd", ctypes.c_int64))


class ShmChannel(Channel):
    """``side`` 0 is the client, which writes the first ring and reads the second."""

    def __init__(
        self, sock: socket.socket, memory: mmap.mmap, *, peer: str, side: int, max_body_bytes: int
    ) -> None:
        sock.setblocking(False)
        self.peer = peer
        self.max_body_bytes = max_body_bytes
        self._socket = sock
        self._memory = memory
        self._region_memory: mmap.mmap | None = None
        view = memoryview(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        half = len(memory) // 2
        out, into = side * half, (1 - side) * half
        self._rings = Rings(bell_fd=sock.fileno())
        self._native = NativeChannel(rings=ctypes.addressof(self._rings))
        self._writer = RingWriter(
            view[out : out + half], address + out, self._ring_bell, self._rings.out
        )
        self._reader = RingReader(
            view[into : into + half],
            address + into,
            self._ring_bell,
            self._rings.into,
            max_body_bytes=max_body_bytes,
        )
        self._outbox: deque[tuple[bytes, list[bytes | memoryview], int]] = deque()
        self._unsent_bytes = 0
        self._hung_up = ""
        self._fault = ""
        self.is_closed = False
        self._listened_at = 0.0

    def map_region(self, memory: mmap.mmap) -> None:
        self._region_memory = memory
        self.region = memoryview(memory).toreadonly()

    def send(self, head: bytes, *body: Buffer) -> None:
        if self._fault or self._hung_up:
            raise PeerLost(self._fault or self._hung_up)
        start, parts, body_bytes = frame.pack(
            head,
            body,
            sequence=self._rings.out.count + len(self._outbox),
            max_body_bytes=self.max_body_bytes,
        )
        frame_bytes = frame.align(len(start) + body_bytes)
        self._unsent_bytes += frame_bytes
        self._outbox.append((start, parts, frame_bytes))
        self.flush()
        if self._fault:
            raise PeerLost(self._fault)

    def receive(self) -> tuple[bytes, memoryview] | None:
        if self._fault:
            raise PeerLost(self._fault)
        try:
            message = self._reader.next()
            if message is None and monotonic() - self._listened_at > SOCKET_EVERY_S:
                self.listen_to_socket()
                # What was written before the end of file is visible after it.
                message = self._reader.next()
        except PeerLost as error:
            self._lose(str(error))
            raise PeerLost(self._fault) from None
        if message is None and self._hung_up:
            raise PeerLost(self._hung_up)
        if self._outbox:
            self.flush()
        return message

    def native(self) -> int:
        if self._fault or self._hung_up or self._outbox:
            return 0
        self._reader.give_back()
        return ctypes.addressof(self._native)

    @property
    def unsent_bytes(self) -> int:
        return self._unsent_bytes

    def close(self) -> None:
        if not (self._fault or self._hung_up):
            self.flush()
        self._lose("closed here")
        self.is_closed = True
        with contextlib.suppress(BufferError):  # bytes still in use keep the memory
            self._writer.close()
            self._reader.close()
            self._memory.close()
        if self._region_memory is not None and self.region is not None:
            with contextlib.suppress(BufferError):
                self.region.release()
                self._region_memory.close()
            self.region = self._region_memory = None  # then it goes with the last who reads there

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> bool:
        """Whether ``receive`` has something to give or to raise, the socket left aside."""
        try:
            return bool(self._fault or self._reader.ready() or self._hung_up)
        except PeerLost as error:
            self._lose(str(error))
            return True

    def flush(self) -> None:
        """Write queued messages into the ring while there is room."""
        try:
            while self._outbox and self._writer.write(*self._outbox[0]):
                self._unsent_bytes -= self._outbox.popleft()[2]
        except PeerLost as error:
            self._lose(str(error))

    def watched(self) -> list[tuple[int, int]]:
        """Shared words to spin on, with the values last seen."""
        words = [self._reader.watched()]
        if self._outbox:
            words.append(self._writer.watched())
        return words

    def fall_asleep(self) -> bool:
        """Ask the peer for bells; True when there is news already."""
        return self._reader.fall_asleep() or (bool(self._outbox) and self._writer.fall_asleep())

    def wake_up(self) -> None:
        self._reader.wake_up()
        if self._outbox:
            self._writer.wake_up()

    def listen_to_socket(self) -> None:
        """Take the bells, and notice the end of the peer."""
        self._listened_at = monotonic()
        try:
            for _ in range(64):
                if not self._socket.recv(64):
                    self._hang_up("closed by the peer")
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            self._hang_up(error.strerror or str(error))

    def _ring_bell(self) -> None:
        with contextlib.suppress(OSError):  # full: bells wait there; broken: the reader notices
            self._socket.send(b"\0")

    def _hang_up(self, reason: str) -> None:
        self._hung_up = self._hung_up or f"{self.peer}: {reason}"
        self._outbox.clear()
        self._unsent_bytes = 0
        self._socket.close()

    def _lose(self, reason: str) -> None:
        self._hang_up(reason)
        self._fault = self._fault or f"{self.peer}: {reason}"
