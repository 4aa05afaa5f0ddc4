"""The frame around a message on shm, tcp and nixl: a checked header, the head, the body. No I/O.

    | header 24 | tag 16 | head | pad to 64 | body | pad to 64 |

The tag covers header and head, bodies not: on tcp and torch it shows that a member of the cluster
sent them, in this place of this conversation. Where a channel is private memory (shm) it is zero.

Numbers are little-endian. Because every part starts on a boundary of 64 bytes, bodies can be read
in place as arrays. A head beyond 64 KiB takes its room from the body's.
"""

import struct
from collections.abc import Sequence

from engine.comm.auth import TAG_BYTES, Seal
from engine.comm.base import Buffer
from engine.errors import ConfigError, PeerLost

HEADER = struct.Struct("<IIIIQ")
"""magic, head bytes, body bytes, kind, sequence number"""
HEAD_START = HEADER.size + TAG_BYTES
NO_TAG = bytes(TAG_BYTES)
MAGIC = int.from_bytes(b"LKV2", "little")
ALIGN_BYTES = 64
PADS = [bytes(n) for n in range(ALIGN_BYTES)]
MESSAGE = 0
"""the kind that every channel knows"""
HEAD_BYTES = 64 << 10
"""every head up to this fits beside every allowed body"""


def align(num_bytes: int) -> int:
    return (num_bytes + ALIGN_BYTES - 1) & -ALIGN_BYTES


def extent(head_bytes: int, body_bytes: int) -> tuple[int, int]:
    """Where in its frame the body starts, and the length of the whole frame."""
    body_start = align(HEAD_START + head_bytes)
    return body_start, align(body_start + body_bytes)


def max_frame_bytes(max_body_bytes: int) -> int:
    """The longest frame. Raises ConfigError when lengths would not fit the header."""
    if not 0 <= max_body_bytes <= 1 << 30:
        raise ConfigError(f"max_body_bytes is {max_body_bytes}; it must lie in [0, {1 << 30}]")
    return extent(HEAD_BYTES, max_body_bytes)[1]


def pack(
    head: bytes,
    body: Sequence[Buffer],
    *,
    sequence: int,
    max_body_bytes: int,
    seal: Seal | None = None,
    kind: int = MESSAGE,
) -> tuple[bytes, list[bytes | memoryview], int]:
    """A frame up to its body (padded), the body as flat bytes, and the body's length.

    Raises ValueError when the message is larger than allowed.
    """
    parts = [flat(part) for part in body]
    body_bytes = sum(map(len, parts))
    if len(head) > HEAD_BYTES or body_bytes > max_body_bytes:
        check_sizes(len(head), body_bytes, max_body_bytes)
    header = HEADER.pack(MAGIC, len(head), body_bytes, kind, sequence)
    start = header + (seal.tag(header, head) if seal else NO_TAG) + head
    return start + PADS[-len(start) % ALIGN_BYTES], parts, body_bytes


def check_sizes(head_bytes: int, body_bytes: int, max_body_bytes: int) -> None:
    """Raises ValueError when the message is larger than allowed."""
    if body_bytes > max_body_bytes:
        raise ValueError(
            f"body of {body_bytes} bytes, at most {max_body_bytes} allowed; send it in parts or "
            "raise max_body_bytes"
        )
    if not _fits(head_bytes, body_bytes, max_body_bytes):
        raise ValueError(
            f"head of {head_bytes} bytes with a body of {body_bytes}: a head beyond {HEAD_BYTES} "
            f"bytes shares max_body_bytes ({max_body_bytes}) with its body"
        )


def parse(
    buffer: memoryview, offset: int, *, sequence: int, max_body_bytes: int, num_kinds: int = 1
) -> tuple[int, int]:
    """Lengths of head and body from the header at ``offset``, read once.

    ``num_kinds``: kinds below it are known to the channel.

    Raises PeerLost naming the fault. Whether the whole frame is there is the caller's to check.
    """
    magic, head_bytes, body_bytes, kind, number = HEADER.unpack_from(buffer, offset)
    if magic != MAGIC or kind >= num_kinds:
        raise PeerLost(f"frame starts with {magic:#x} {kind:#x} instead of {MAGIC:#x} 0x0")
    if body_bytes > max_body_bytes or (
        head_bytes > HEAD_BYTES and not _fits(head_bytes, body_bytes, max_body_bytes)
    ):
        raise PeerLost(
            f"frame announces a head of {head_bytes} and a body of {body_bytes} bytes; "
            f"max_body_bytes is {max_body_bytes}"
        )
    if number != sequence:
        raise PeerLost(f"frame number {number} came where {sequence} was due")
    return head_bytes, body_bytes


def kind_of(buffer: memoryview, offset: int) -> int:
    """The kind of a frame that was parsed; trusted once its tag is checked."""
    kind: int = HEADER.unpack_from(buffer, offset)[3]
    return kind


def check_tag(buffer: memoryview, offset: int, head_bytes: int, seal: Seal) -> None:
    """Raises PeerLost when header and head of the frame at ``offset`` are not what was sealed."""
    header = buffer[offset : offset + HEADER.size]
    head = buffer[offset + HEAD_START :][:head_bytes]
    if not seal.fits(bytes(buffer[offset + HEADER.size : offset + HEAD_START]), header, head):
        raise PeerLost("a message came that its peer has not sent (its tag is wrong)")


def flat(part: Buffer) -> bytes | memoryview:
    """One-dimensional bytes, whatever the buffer's items are; not copied."""
    if type(part) is bytes:
        return part
    view = memoryview(part)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    return view.cast("B") if view.nbytes else memoryview(b"")


def _fits(head_bytes: int, body_bytes: int, max_body_bytes: int) -> bool:
    if head_bytes > max(HEAD_BYTES, max_body_bytes):
        return False
    return extent(head_bytes, body_bytes)[1] <= extent(HEAD_BYTES, max_body_bytes)[1]
