"""The blocks a step drew from its own pool: who uses them, and what the sealed ones hold.

Knows ids, counts and hashes only; which of them belong to which sequence is the scheduler's matter.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from engine.errors import CapacityError

ROOT = b""
"""parent of the first block of every sequence"""


def chain_hash(parent: bytes, token_ids: Sequence[int], salt: bytes = b"") -> bytes:
    """Names a block by all tokens up to its end: hash of the parent's hash and its own tokens.

    ``salt`` keeps apart what must not be shared (another model, another tenant).
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (salt, parent, struct.pack(f"<{len(token_ids)}I", *token_ids)):
        digest.update(struct.pack("<Q", len(part)) + part)
    return digest.digest()


class BlockStore:
    """Reference counts and hashes of the drawn blocks."""

    def __init__(self, *, block_tokens: int, salt: bytes = b"") -> None:
        self.block_tokens = block_tokens
        self.salt = salt
        self._free: list[int] = []
        self._references: dict[int, int] = {}
        self._hashes: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self._references)

    @property
    def num_blocks(self) -> int:
        return self.num_free + self.num_used

    def add(self, blocks: Iterable[int]) -> None:
        """Blocks that the pool handed over; they are free."""
        new = list(blocks)
        if len(new) != len({*new} - {*self._free} - self._references.keys()):
            raise ValueError("a block was handed over twice")
        self._free.extend(new)

    def surplus(self, keep: int) -> list[int]:
        """Take out all free blocks but ``keep`` of them, to give back to the pool."""
        extra = self._free[: max(0, len(self._free) - max(0, keep))]
        del self._free[: len(extra)]
        return extra

    def allocate(self, num_blocks: int) -> list[int]:
        """Blocks with one reference each, or CapacityError and nothing taken."""
        if num_blocks > self.num_free:
            raise CapacityError(
                f"{num_blocks} blocks wanted, {self.num_free} free of {self.num_blocks}; "
                "wait for a request to end, draw more from the pool or borrow"
            )
        taken = [self._free.pop() for _ in range(num_blocks)]
        self._references.update(dict.fromkeys(taken, 1))
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """One more reference for each."""
        shared = list(blocks)
        self._require_used(shared)
        for block in shared:
            self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """One reference less for each; with the last one a block is free and forgets its hash."""
        released = Counter(blocks)
        self._require_used(released)
        if any(count > self._references[block] for block, count in released.items()):
            raise ValueError("a block is released more often than it is held")
        for block, count in released.items():
            self._references[block] -= count
            if not self._references[block]:
                del self._references[block]
                self._hashes.pop(block, None)
                self._free.append(block)

    def seal(self, block: int, parent_hash: bytes, token_ids: Sequence[int]) -> bytes:
        """A full block becomes immutable; returns its chain hash."""
        self._require_used([block])
        if block in self._hashes:
            raise ValueError(f"block {block} is sealed already")
        if len(token_ids) != self.block_tokens:
            raise ValueError(f"{len(token_ids)} tokens do not fill {self.block_tokens}")
        self._hashes[block] = chain_hash(parent_hash, token_ids, self.salt)
        return self._hashes[block]

    def hash_of(self, block: int) -> bytes | None:
        """The chain hash of a sealed block, None while it is open."""
        return self._hashes.get(block)

    def remove(self, blocks: Sequence[int]) -> None:
        """Used blocks leave the store, for the pool to keep; each must have one user only."""
        self._require_used(blocks)
        if any(self._references[block] != 1 for block in blocks):
            raise ValueError("a block that leaves has other users")
        for block in blocks:
            del self._references[block]
            self._hashes.pop(block, None)

    def check(self, used: Mapping[int, int] | None = None) -> None:
        """``used``: how many users each block should have."""
        assert used is None or used == self._references, "a block is held by nobody, or not held"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & self._references.keys(), "a block is free and used"
        assert all(count > 0 for count in self._references.values())
        assert self._hashes.keys() <= self._references.keys(), "a free block has a hash"

    def _require_used(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if block not in self._references:
                raise ValueError(f"block {block} is not in use")
