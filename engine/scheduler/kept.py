"""Kept: answers that are complete, for clients who come back to hear their end. No I/O.

They are bounded in age, number and bytes: the oldest go first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from engine.scheduler.entry import Entry

KEEP_S = 300.0
MAX_ENTRIES = 4096
MAX_BYTES = 64 << 20
ENTRY_BYTES, TOKEN_BYTES, SCORE_BYTES, TOP_BYTES = 4096, 40, 128, 128
"""about what an entry, a token, its Score and one of the likeliest tokens take in this process"""


class Kept:
    """The names of ended entries, the oldest first."""

    def __init__(
        self,
        keep_s: float = KEEP_S,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._keep_s = keep_s
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ended: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """name -> when, and its bytes"""
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, entry: Entry, now: float) -> None:
        """It has ended just now."""
        self._push(entry.request.request_id, now, bytes_of(entry))

    def drop(self, name: str) -> None:
        """It is kept no more, if it was."""
        _, num_bytes = self._ended.pop(name, (0.0, 0))
        self.num_bytes -= num_bytes

    def leave(self, now: float, is_wanted: Callable[[str], bool]) -> Iterator[str]:
        """Those that are too old, or too many, and are kept no more. Who is wanted stays, as if it
        had ended now."""
        for _ in range(len(self._ended)):
            name, (at, num_bytes) = next(iter(self._ended.items()))
            is_full = len(self._ended) > self._max_entries or self.num_bytes > self._max_bytes
            if not is_full and now - at <= self._keep_s:
                return
            self.drop(name)
            if is_wanted(name):
                self._push(name, now, num_bytes)
            else:
                yield name

    def _push(self, name: str, now: float, num_bytes: int) -> None:
        self._ended[name] = (now, num_bytes)
        self.num_bytes += num_bytes


def bytes_of(entry: Entry) -> int:
    """About what it takes."""
    scores = [*entry.scores, *entry.prompt_scores]
    num_tokens = len(entry.request.prompt_ids) + len(entry.token_ids)
    num_top = sum(len(score.top) for score in scores)
    return ENTRY_BYTES + TOKEN_BYTES * num_tokens + SCORE_BYTES * len(scores) + TOP_BYTES * num_top
