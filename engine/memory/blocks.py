"""The blocks a step drew from its own pool: who uses them, and what the sealed ones hold.

Knows ids, counts and hashes only; which of them belong to which sequence is the scheduler's matter.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from engine.errors import CapacityError
from engine.memory.contents import Contents

ROOT = b""
"""parent of the first block of every sequence that shares with all others"""
MAX_LEFT = 1 << 14
"""hashes of blocks that went to the pool that are remembered"""


def root_of(cache_salt: str) -> bytes:
    """Parent of the first block of a sequence that shares with those of the same salt only."""
    if not cache_salt:
        return ROOT
    # A kind of its own: no text must hash to what chain_hash gives to somebody's block.
    return hashlib.blake2b(cache_salt.encode(), digest_size=16, person=b"cache_salt").digest()


def chain_hash(parent: bytes, token_ids: Sequence[int], salt: bytes = b"") -> bytes:
    """Names a block by all tokens up to its end: hash of the parent's hash and its own tokens.

    ``salt`` keeps apart what must not be shared (another model, another tenant).
    """
    tokens = _packer(len(token_ids))(*token_ids)
    parts = (_SIZE(len(salt)), salt, _SIZE(len(parent)), parent, _SIZE(len(tokens)), tokens)
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


_SIZE = struct.Struct("<Q").pack


@lru_cache(maxsize=64)
def _packer(num_tokens: int) -> Callable[..., bytes]:
    return struct.Struct(f"<{num_tokens}I").pack


def chain(
    root: bytes, token_ids: Sequence[int], num_blocks: int, block_tokens: int, salt: bytes = b""
) -> list[bytes]:
    """The chain hashes of a sequence's first blocks."""
    hashes: list[bytes] = []
    for first in range(0, num_blocks * block_tokens, block_tokens):
        parent = hashes[-1] if hashes else root
        hashes.append(chain_hash(parent, token_ids[first : first + block_tokens], salt))
    return hashes


class BlockStore:
    """Reference counts and hashes of the blocks that the pool gave.

    Some it keeps cached meanwhile: these are sealed, and never free here.
    """

    def __init__(
        self, *, block_tokens: int, salt: bytes = b"", contents: Contents | None = None
    ) -> None:
        self.block_tokens = block_tokens
        self.salt = salt
        self.contents = contents or Contents()
        self._free: list[int] = []
        self._references: dict[int, int] = {}
        self.num_shared = 0
        """used blocks that have several users"""
        self._hashes: dict[int, bytes] = {}
        self._sealed: dict[bytes, int] = {}
        """hash -> one of the blocks with it"""
        self._cached: set[int] = set()
        """used here, and cached by the pool"""
        self._left: dict[bytes, None] = {}
        """hashes of the latest blocks that went to the pool for it to keep"""

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
            self.num_shared += self._references[block] == 1
            self._references[block] += 1

    def recover(self, blocks: Mapping[int, bytes]) -> None:
        """Cached blocks that the pool found, with their hashes; one reference each."""
        if blocks.keys() & {*self._free, *self._references}:
            raise ValueError("a block was handed over twice")
        for block, content in blocks.items():
            self._references[block] = 1
            self._cached.add(block)
            self._note(block, content)
            self.contents.recovered(content)

    def find(self, content: bytes) -> int | None:
        """A sealed block in use with this chain hash."""
        return self._sealed.get(content)

    def is_shared(self, block: int) -> bool:
        """Whether a used block has several users."""
        return self._references[block] > 1

    def release(self, blocks: Iterable[int], *, keep: bool = False) -> dict[int, bytes]:
        """One reference less for each; with the last one a block is free and forgets its hash.

        Those that the pool has cached leave the store instead, with ``keep`` all sealed ones: they
        are returned with their hashes, to be given to the pool.
        """
        left: dict[int, bytes] = {}
        released = Counter(blocks)
        self._require_used(released)
        if any(count > self._references[block] for block, count in released.items()):
            raise ValueError("a block is released more often than it is held")
        for block, count in released.items():
            before, left_over = self._references[block], self._references[block] - count
            self.num_shared -= before > 1 >= left_over
            self._references[block] = left_over
            if left_over:
                continue
            del self._references[block]
            content = self._hashes.pop(block, None)
            if content is not None and self._sealed.get(content) == block:
                del self._sealed[content]
            was_cached = block in self._cached
            if content is not None and (keep or was_cached):
                self._cached.discard(block)
                left[block] = content
            else:
                self._free.append(block)
            if content is not None:
                self.contents.released(content, given=keep and not was_cached)
        self._left |= dict.fromkeys(left.values())
        while len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]
        return left

    def has_left(self, content: bytes) -> bool:
        """Whether the pool got a block with this hash lately, and may have it still."""
        return content in self._left

    def seal(
        self, block: int, parent_hash: bytes, token_ids: Sequence[int], content: bytes = b""
    ) -> bytes:
        """A full block becomes immutable; returns its chain hash, ``content`` where it is known."""
        if block not in self._references:
            raise _unused(block)
        if block in self._hashes:
            raise ValueError(f"block {block} is sealed already")
        if len(token_ids) != self.block_tokens:
            raise ValueError(f"{len(token_ids)} tokens do not fill {self.block_tokens}")
        content = content or chain_hash(parent_hash, token_ids, self.salt)
        self._note(block, content)
        self.contents.sealed(content, parent_hash, token_ids)
        return content

    def hash_of(self, block: int) -> bytes | None:
        """The chain hash of a sealed block, None while it is open."""
        return self._hashes.get(block)

    def check(self, used: Mapping[int, int] | None = None) -> None:
        """``used``: how many users each block should have."""
        assert used is None or used == self._references, "a block is held by nobody, or not held"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & self._references.keys(), "a block is free and used"
        assert all(count > 0 for count in self._references.values())
        assert self.num_shared == sum(count > 1 for count in self._references.values())
        assert self._hashes.keys() <= self._references.keys(), "a free block has a hash"
        assert self._cached <= self._hashes.keys(), "a cached block is not sealed"
        assert self._sealed.keys() <= {*self._hashes.values()}, "a hash outlives its blocks"
        assert all(self._hashes[block] == content for content, block in self._sealed.items())

    def _note(self, block: int, content: bytes) -> None:
        self._hashes[block] = content
        self._sealed.setdefault(content, block)

    def _require_used(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if block not in self._references:
                raise _unused(block)


def _unused(block: int) -> ValueError:
    return ValueError(f"block {block} is not in use")
