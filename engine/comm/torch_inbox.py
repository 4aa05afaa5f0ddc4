"""Messages that arrived on a torch channel, their bodies in one ring of bytes. Knows no locks."""

from collections import deque
from contextlib import suppress

import torch

from engine.comm import frame

TRAILER_BYTES = 64
"""behind each body comes its frame's header, on a boundary: a wrong length misplaces it"""
MAX_HEADS_BYTES = 1 << 20
"""no further message is taken while unread heads exceed this"""
HEAD_EXTRA_BYTES = 100
"""what an empty head costs"""


def tensor_bytes(body_bytes: int) -> int:
    """Length of the tensor that carries a body."""
    return frame.align(body_bytes) + TRAILER_BYTES


class Inbox:
    def __init__(self, max_body_bytes: int) -> None:
        self._slot_bytes = tensor_bytes(max_body_bytes)
        # Touched only where written. Three: the body handed out, and one on either side of it.
        self._memory = torch.empty(3 * self._slot_bytes, dtype=torch.uint8)
        self._view = self._memory.numpy().data
        self._messages: deque[tuple[bytes, int, int]] = deque()
        self._extents: deque[tuple[int, int]] = deque()
        self._heads_bytes = 0
        self._body: memoryview | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def free_start(self) -> int | None:
        """Where the longest tensor would fit, or None while there is no room."""
        if self._heads_bytes > MAX_HEADS_BYTES:
            return None
        if not self._extents:
            return 0
        oldest, newest_end = self._extents[0][0], self._extents[-1][1]
        limit = self._memory.numel() if newest_end > oldest else oldest
        if newest_end + self._slot_bytes <= limit:
            return newest_end
        wraps = limit != oldest and self._slot_bytes <= oldest
        return 0 if wraps else None

    def slot(self, start: int) -> torch.Tensor:
        return self._memory[start : start + self._slot_bytes]

    def trailer(self, start: int, body_bytes: int) -> bytes:
        at = start + frame.align(body_bytes)
        return bytes(self._view[at : at + frame.HEADER.size])

    def put(self, head: bytes, start: int, body_bytes: int) -> None:
        self._messages.append((head, start, body_bytes))
        self._heads_bytes += len(head) + HEAD_EXTRA_BYTES
        if body_bytes:
            self._extents.append((start, start + tensor_bytes(body_bytes)))

    def take(self) -> tuple[bytes, memoryview] | None:
        """The oldest message; ends the life of the body handed out before."""
        if self._body is not None:
            if len(self._body):
                self._extents.popleft()
            with suppress(BufferError):  # still in use there; its bytes may change
                self._body.release()
            self._body = None
        if not self._messages:
            return None
        head, start, body_bytes = self._messages.popleft()
        self._heads_bytes -= len(head) + HEAD_EXTRA_BYTES
        self._body = self._view[start : start + body_bytes]
        return head, self._body

    def clear(self) -> None:
        self._messages.clear()
