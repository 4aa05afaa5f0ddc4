"""Sketch: which contents a pool has cached, in a kilobyte that its heartbeats carry. No I/O.

A Bloom filter over chain hashes, or over one in ``2**shift`` of them when there are many: whoever
looks for a prefix asks only pools that are likely to have it. It is late, and now and then wrong.
"""

import struct
from collections.abc import Collection

from engine.memory.books import Books

MAX_BYTES = 1024
"""of the filter; one byte holds one content, which is then found in vain 3 times in 100"""
HASH_BYTES = 16
SHARE = 1e-4
"""seconds for each cached content until the next sketch, which takes a hundredth of that"""
LEAST_S = 1.0
"""between two sketches: nobody asks for them more often, and they are the most of a heartbeat"""


def sketch(contents: Collection[bytes]) -> bytes:
    """The shift, then the filter; empty for nothing."""
    shift = max(0, (len(contents) - 1) // MAX_BYTES).bit_length()
    chosen = [of for of in contents if len(of) == HASH_BYTES and _is_sampled(of, shift)]
    if not chosen:
        return b""
    bits = bytearray(min(MAX_BYTES, len(chosen)))
    for content in chosen:
        for bit in _bits(content, len(bits)):
            bits[bit // 8] |= 1 << bit % 8
    return bytes([shift]) + bytes(bits)


def may_have(of: bytes, content: bytes) -> bool | None:
    """Whether the sketched pool has it cached: False is certain; None where it does not say."""
    if len(of) < 2 or len(content) != HASH_BYTES:
        return False
    if not _is_sampled(content, of[0]):
        return None
    return all(of[1 + bit // 8] >> bit % 8 & 1 for bit in _bits(content, len(of) - 1))


class Sketcher:
    """The sketch of a pool's books, made anew when they have changed, and not all the time."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._sketch = b""
        self._of = 0
        self._next = 0.0

    def at(self, now: float) -> bytes:
        if self._of != self._books.num_cachings and now >= self._next:
            contents = self._books.contents
            self._sketch, self._of = sketch(contents), self._books.num_cachings
            self._next = now + max(LEAST_S, SHARE * len(contents))
        return self._sketch


def _is_sampled(content: bytes, shift: int) -> bool:
    return not content[-1] & ((1 << shift) - 1)


def _bits(content: bytes, num_bytes: int) -> list[int]:
    return [word % (8 * num_bytes) for word in struct.unpack_from("<3I", content)]
