"""One-way byte rings in memory shared by two processes. Knows no sockets; trusts nothing it reads.

A ring is a page of four words, each on a cache line of its own, then ``ring_bytes`` of frames:

    written | read | reader asleep | writer asleep | ... | frames

``written`` and ``read`` count bytes from the beginning of time. A frame never wraps: one that does
not fit before the end is preceded by a filler.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.comm import frame
from engine.errors import PeerLost
from engine.native.library import load

PAGE_BYTES = 4096
FILLER = int.from_bytes(b"SKIP", "little")
WRITTEN, READ, READER_ASLEEP, WRITER_ASLEEP = 0, 64, 128, 192
"""offsets of the words"""


def shared_bytes(ring_bytes: int) -> int:
    """Length of the memory that holds one ring."""
    return PAGE_BYTES + ring_bytes


@dataclass(frozen=True)
class Atomics:
    """The native helper's functions; all but ``wait_change`` are too short to let the GIL go."""

    load: Callable[[int], int]
    publish: Callable[[int, int, int], int]
    fall_asleep: Callable[[int, int, int], int]
    wake_up: Callable[[int, int], None]
    wait_change: Callable[[Any, Any, int, int], int]


@functools.cache
def atomics() -> Atomics:
    library = load()
    word, at = ctypes.c_uint64, ctypes.c_void_p

    def bind(name: str, result: Any, *arguments: Any, kind: Any = ctypes.PYFUNCTYPE) -> Any:
        address = ctypes.cast(getattr(library, name), at).value
        return kind(result, *arguments)(address)

    return Atomics(
        load=bind("lk_load_acquire_u64", word, at),
        publish=bind("lk_publish_u64", ctypes.c_int32, at, word, at),
        fall_asleep=bind("lk_fall_asleep_u64", ctypes.c_int32, at, at, word),
        wake_up=bind("lk_store_release_u64", None, at, word),
        wait_change=bind(
            "lk_wait_change", ctypes.c_int64, at, at, word, word, kind=ctypes.CFUNCTYPE
        ),
    )


class RingEnd(ctypes.Structure):
    """One end's view of a ring; the same fields as RingEnd in native/ring.h, which goes on with it
    in the middle of a layer."""

    _fields_ = (
        ("page", ctypes.c_void_p),
        *((name, ctypes.c_uint64) for name in ("capacity", "written", "position", "read", "count")),
    )


class RingWriter:
    """The sending end. ``bell`` wakes a sleeping reader."""

    def __init__(
        self, shared: memoryview, address: int, bell: Callable[[], None], end: RingEnd
    ) -> None:
        self._frames = shared[PAGE_BYTES:]
        self._address = address
        self._bell = bell
        self._end = end
        end.page, end.capacity = address, len(self._frames)
        self._atomics = atomics()

    def write(self, start: bytes, parts: list[bytes | memoryview], frame_bytes: int) -> bool:
        """Write one frame and publish it; False when there is no room yet.

        Raises PeerLost when the reader's counter makes no sense.
        """
        capacity, written, end = len(self._frames), self._end.written, self._end
        at = written % capacity
        skip = capacity - at if frame_bytes > capacity - at else 0
        if written + skip + frame_bytes - end.read > capacity:
            self._refresh()
            if written + skip + frame_bytes - end.read > capacity:
                return False
        if skip:
            frame.HEADER.pack_into(self._frames, at, FILLER, 0, 0, 0, 0)
            at = 0
        self._frames[at : at + len(start)] = start
        at += len(start)
        for part in parts:
            part_end = at + len(part)
            self._frames[at:part_end] = part
            at = part_end
        end.written = written = written + skip + frame_bytes
        end.count += 1
        where = self._address
        if self._atomics.publish(where + WRITTEN, written, where + READER_ASLEEP):
            self._bell()
        return True

    def watched(self) -> tuple[int, int]:
        """Address and last known value of the word that changes when room appears."""
        return self._address + READ, self._end.read

    def fall_asleep(self) -> bool:
        """Ask for a bell when room appears; True when some has."""
        where = self._address
        return bool(self._atomics.fall_asleep(where + WRITER_ASLEEP, where + READ, self._end.read))

    def wake_up(self) -> None:
        self._atomics.wake_up(self._address + WRITER_ASLEEP, 0)

    def close(self) -> None:
        self._frames.release()

    def _refresh(self) -> None:
        read = self._atomics.load(self._address + READ)
        end = self._end
        if not end.read <= read <= end.written:
            raise PeerLost(
                f"the ring says {read} bytes were read, after {end.read} of {end.written}"
            )
        end.read = read


class RingReader:
    """The receiving end. ``bell`` wakes a writer that sleeps for want of room."""

    def __init__(
        self,
        shared: memoryview,
        address: int,
        bell: Callable[[], None],
        end: RingEnd,
        *,
        max_body_bytes: int,
    ) -> None:
        self._frames = shared[PAGE_BYTES:]
        self._address = address
        self._bell = bell
        self._max_body_bytes = max_body_bytes
        self._end = end
        """``read`` is behind ``position`` while a body is handed out"""
        end.page, end.capacity = address, len(self._frames)
        self._body: memoryview | None = None
        self._atomics = atomics()

    def ready(self) -> bool:
        """Whether more was written than handed out. Raises PeerLost on a senseless counter."""
        end = self._end
        if end.written != end.position:
            return True
        written = self._atomics.load(self._address + WRITTEN)
        if not end.written <= written <= end.read + len(self._frames):
            raise PeerLost(
                f"the ring says {written} bytes were written, after {end.written} with "
                f"{end.read} read of {len(self._frames)}"
            )
        end.written = written
        return bool(written != end.position)

    def next(self) -> tuple[bytes, memoryview] | None:
        """Give the last message's room back, then the next message in place, or None."""
        self.give_back()
        if not self.ready():
            return None
        end = self._end
        at = end.position % len(self._frames)
        num_skipped = 0
        if at and frame.HEADER.unpack_from(self._frames, at)[0] == FILLER:
            num_skipped, at = len(self._frames) - at, 0
        arrived = end.written - end.position - num_skipped
        if arrived < frame.ALIGN_BYTES:
            raise PeerLost(f"{arrived} bytes in the ring where a frame was due")
        head_bytes, body_bytes = frame.parse(
            self._frames, at, sequence=end.count, max_body_bytes=self._max_body_bytes
        )
        body_start, frame_bytes = frame.extent(head_bytes, body_bytes)
        if frame_bytes > min(arrived, len(self._frames) - at):
            raise PeerLost(f"frame of {frame_bytes} bytes where {arrived} arrived")
        end.count += 1
        end.position += num_skipped + frame_bytes
        head_start, body_at = at + frame.HEAD_START, at + body_start
        self._body = self._frames[body_at : body_at + body_bytes]
        return bytes(self._frames[head_start : head_start + head_bytes]), self._body

    def watched(self) -> tuple[int, int]:
        """Address and last known value of the word that changes when something is written."""
        return self._address + WRITTEN, self._end.written

    def fall_asleep(self) -> bool:
        """Ask for a bell when something is written; True when something was."""
        where = self._address
        asleep, written = where + READER_ASLEEP, where + WRITTEN
        return bool(self._atomics.fall_asleep(asleep, written, self._end.written))

    def wake_up(self) -> None:
        self._atomics.wake_up(self._address + READER_ASLEEP, 0)

    def close(self) -> None:
        """Raises BufferError when a body is still in use."""
        if self._body is not None:
            self._body.release()
        self._frames.release()

    def give_back(self) -> None:
        """Whoever had the last body is done with it."""
        end = self._end
        if end.read == end.position:
            return
        if self._body is not None:
            with contextlib.suppress(BufferError):
                self._body.release()
            self._body = None
        end.read = end.position
        where = self._address
        if self._atomics.publish(where + READ, end.read, where + WRITER_ASLEEP):
            self._bell()
