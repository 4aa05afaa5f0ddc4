"""Contents: which blocks of tokens an instance can read, here or lent, as KV events. No I/O.

A block is *here* while a sequence uses it or the pool keeps it cached. What was not sealed by this
step is not announced: what its pool had cached before it began, or keeps for others.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from engine.protocol.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KvEvent

MEDIUM = "CPU"


class Contents:
    """Follows the store and the loans of one step; ``take`` what is to be told."""

    def __init__(self) -> None:
        self.is_on = False
        self._events: list[KvEvent] = []
        self._used: Counter[bytes] = Counter()
        """own blocks in use, by their hash"""
        self._cached: Counter[bytes] = Counter()
        """blocks that were given to the pool, less those that it has told to be gone"""
        self._here: set[bytes] = set()
        """announced"""
        self._lent: dict[tuple[int, int, int], bytes] = {}
        """(instance, loan, slot) -> what lies there"""

    def start(self) -> None:
        """Announce from now on; nothing was sealed before."""
        self.is_on = True
        self._events.append(AllBlocksCleared())

    def take(self) -> list[KvEvent]:
        """What happened since the last time, in order."""
        events, self._events = self._events, []
        return events

    @property
    def here(self) -> set[bytes]:
        """Hashes that were announced as LOCAL and not removed."""
        return set(self._here)

    def sealed(self, content: bytes, parent: bytes, token_ids: Sequence[int]) -> None:
        """An own block is full."""
        if not self.is_on:
            return
        self._used[content] += 1
        if content not in self._here:
            self._here.add(content)
            self._store(content, parent, token_ids, "LOCAL")

    def recovered(self, content: bytes) -> None:
        """A block came back from the pool's cache, where it stays cached too."""
        if self.is_on:
            self._used[content] += 1

    def released(self, content: bytes, *, given: bool) -> None:
        """Nobody uses this own block any more; ``given``: to the pool, for it to keep."""
        if not self.is_on:
            return
        self._used[content] -= 1
        self._cached[content] += given
        self._forget(content)

    def evicted(self, contents: Iterable[bytes]) -> None:
        """What p.Evicted says. Some were never given by this step: then there is nothing to lose,
        and in doubt less is announced than there is."""
        for content in contents:
            self._cached[content] = max(0, self._cached[content] - 1)
            self._forget(content)

    def moved(
        self,
        at: tuple[int, int, int],
        content: bytes,
        parent: bytes,
        token_ids: Sequence[int],
    ) -> None:
        """A holder has a copy, at (instance, loan, slot)."""
        if self.is_on:
            self._lent[at] = content
            self._store(content, parent, token_ids, "REMOTE", _name(at[0]))

    def ended(self, instance: int, loan: int, slots: Sequence[int] = ()) -> None:
        """These slots are given back or lost; without any, the whole loan."""
        if not self._lent:
            return
        chosen = [key for key in self._lent if key[:2] == (instance, loan)]
        for key in chosen:
            if not slots or key[2] in slots:
                content = self._lent.pop(key)
                self._events.append(BlockRemoved([content], MEDIUM, "REMOTE", _name(instance)))

    def _forget(self, content: bytes) -> None:
        if self._used[content] > 0 or self._cached[content] > 0:
            return
        del self._used[content], self._cached[content]
        if content in self._here:
            self._here.discard(content)
            self._events.append(BlockRemoved([content], MEDIUM, "LOCAL"))

    def _store(
        self,
        content: bytes,
        parent: bytes,
        token_ids: Sequence[int],
        locality: str,
        ownership: str | None = None,
    ) -> None:
        tokens = list(token_ids)
        self._events.append(
            BlockStored(
                [content],
                parent or None,
                tokens,
                len(tokens),
                medium=MEDIUM,
                locality=locality,
                ownership=ownership,
            )
        )


def _name(instance: int) -> str:
    return f"instance-{instance}"
