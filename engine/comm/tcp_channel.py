"""A channel over one TCP socket: bytes come into one memory, frames are handed out in place.

The native library may go on with both directions in the middle of a layer (native/stream.h): what
has come, what is still to go and how many frames were counted lies in a structure of both.
"""

import contextlib
import ctypes
import mmap
import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice

from engine.comm import frame
from engine.comm.auth import Session
from engine.comm.base import Buffer, Channel, NativeChannel
from engine.comm.polling import READ, WRITE
from engine.errors import PeerLost

MAX_PARTS = 64
"""buffers handed to the kernel at once"""
KEY_BYTES = 32


class Stream(ctypes.Structure):
    """The same fields as Stream in native/stream.h."""

    _fields_ = (
        ("fd", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("into", "out")),
        *((name, ctypes.c_uint64) for name in ("frame_bytes", "start", "end")),
        *((name, ctypes.c_uint64) for name in ("out_start", "out_end")),
        *((name, ctypes.c_uint64) for name in ("num_received", "num_sent")),
        *((name, ctypes.c_ubyte * KEY_BYTES) for name in ("receive_key", "send_key")),
    )


class TcpChannel(Channel):
    num_kinds = 1
    """kinds of frames that it knows (``frame.parse``)"""

    def __init__(
        self, sock: socket.socket, peer: str, max_body_bytes: int, session: Session
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.max_body_bytes = max_body_bytes
        self._socket = sock
        self._session = session
        frame_bytes = frame.max_frame_bytes(max_body_bytes)
        # Three frames: the one handed out and the next fit wherever the first of them starts.
        # Behind them one that the native library sends.
        self._memory = mmap.mmap(-1, 4 * frame_bytes)
        self._buffer = memoryview(self._memory)[: 3 * frame_bytes]
        self._out = memoryview(self._memory)[3 * frame_bytes :]
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._stream = Stream(
            fd=sock.fileno(),
            into=address,
            out=address + 3 * frame_bytes,
            frame_bytes=frame_bytes,
            receive_key=(ctypes.c_ubyte * KEY_BYTES)(*session.receives.key),
            send_key=(ctypes.c_ubyte * KEY_BYTES)(*session.sends.key),
        )
        self._native = NativeChannel(stream=ctypes.addressof(self._stream))
        self._held_bytes = 0
        self._body: memoryview | None = None
        self._outbox: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._fault = ""
        self._send_fault = ""

    def send(self, head: bytes, *body: Buffer) -> None:
        if self._fault or self._send_fault:
            raise PeerLost(self._fault or self._send_fault)
        self._say(frame.MESSAGE, head, body)
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
        at = self._stream.start + self._held_bytes
        try:
            frame.check_tag(self._buffer, at, head_bytes, self._session.receives)
        except PeerLost as error:
            self._stream.end = at
            self._lose(str(error))
            raise PeerLost(self._fault) from None
        body_start, frame_bytes = frame.extent(head_bytes, body_bytes)
        self._held_bytes += frame_bytes
        self._stream.num_received += 1
        head = bytes(self._buffer[at + frame.HEAD_START :][:head_bytes])
        self._body = self._buffer[at + body_start : at + body_start + body_bytes]
        return head, self._body

    def native(self) -> int:
        if self._fault or self._send_fault or self.unsent_bytes:
            return 0
        self._give_back()
        return ctypes.addressof(self._native)

    @property
    def unsent_bytes(self) -> int:
        return self._outbox_bytes()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self.flush()
        self._lose("closed here")
        self._stream.start = self._stream.end = self._held_bytes = 0
        with contextlib.suppress(BufferError):  # a body still in use keeps the memory
            if self._body is not None:
                self._body.release()
            self._out.release()
            self._buffer.release()
            self._memory.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def events(self) -> int:
        """What of the socket it waits for."""
        return READ | WRITE if self._outbox_bytes() else READ

    def ready(self) -> bool:
        """Whether ``receive`` has something to give or to raise, without asking the kernel."""
        return self._whole_frame() is not None or bool(self._fault)

    def flush(self) -> None:
        """Hand queued bytes to the kernel, as many as it takes."""
        self._take_over()
        while self._outbox:
            try:
                num_bytes = self._socket.sendmsg(islice(self._outbox, MAX_PARTS))
            except BlockingIOError:
                return
            except OSError as error:
                self._stop_sending(f"{self.peer}: {error.strerror}")
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
        stream = self._stream
        assert stream.end < len(self._buffer), "a whole frame was left unread"
        try:
            num_bytes = self._socket.recv_into(self._buffer[stream.end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        stream.end += num_bytes
        if not num_bytes:
            partial = stream.end - stream.start - self._held_bytes
            self._lose("closed by the peer" + " within a message" * bool(partial))

    def _say(self, kind: int, head: bytes, body: Sequence[Buffer] = ()) -> None:
        """Queue one frame, and push it out where nothing is queued before it."""
        start, parts, body_bytes = frame.pack(
            head,
            body,
            sequence=self._stream.num_sent,
            max_body_bytes=self.max_body_bytes,
            seal=self._session.sends,
            kind=kind,
        )
        self._stream.num_sent += 1
        self._take_over()
        pad_bytes = -body_bytes % frame.ALIGN_BYTES
        views = [view for view in (start, *parts, frame.PADS[pad_bytes]) if view]
        self._outbox.extend(views)
        self._unsent_bytes += len(start) + body_bytes + pad_bytes
        if len(self._outbox) == len(views):
            self.flush()

    def _outbox_bytes(self) -> int:
        """Bytes that wait for room in the socket."""
        in_library: int = self._stream.out_end - self._stream.out_start
        return self._unsent_bytes + in_library

    def _whole_frame(self) -> tuple[int, int] | None:
        """Lengths of the next frame when all of it is there."""
        stream = self._stream
        at = stream.start + self._held_bytes
        if stream.end - at < frame.HEADER.size:
            return None
        try:
            lengths = frame.parse(
                self._buffer,
                at,
                sequence=stream.num_received,
                max_body_bytes=self.max_body_bytes,
                num_kinds=self.num_kinds,
            )
        except PeerLost as error:
            stream.end = at
            self._lose(str(error))
            return None
        return lengths if frame.extent(*lengths)[1] <= stream.end - at else None

    def _give_back(self) -> None:
        """Reclaim the message handed out last, and move the rest down when room gets short."""
        if self._body is not None:
            with contextlib.suppress(BufferError):
                self._body.release()
            self._body = None
        stream = self._stream
        stream.start += self._held_bytes
        self._held_bytes = 0
        if stream.start == stream.end:
            stream.start = stream.end = 0
        elif stream.start > stream.frame_bytes:
            rest = stream.end - stream.start
            self._buffer[:rest] = self._buffer[stream.start : stream.end]
            stream.start, stream.end = 0, rest

    def _take_over(self) -> None:
        """What the native library could not send goes before everything else."""
        stream = self._stream
        if stream.out_start != stream.out_end:
            rest = bytes(self._out[stream.out_start : stream.out_end])
            self._outbox.append(rest)
            self._unsent_bytes += len(rest)
            stream.out_start = stream.out_end = 0

    def _stop_sending(self, fault: str) -> None:
        """Not lost yet: what the peer sent before is still to be received."""
        self._send_fault = fault
        self._outbox.clear()
        self._unsent_bytes = 0

    def _lose(self, fault: str) -> None:
        self._fault = self._fault or f"{self.peer}: {fault}"
        self._outbox.clear()
        self._unsent_bytes = self._stream.out_start = self._stream.out_end = 0
        self._socket.close()
        self._stream.fd = -1
