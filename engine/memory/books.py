"""The books of one pool: each physical rBlock is in exactly one state. Pure bookkeeping."""

from collections import Counter, deque
from collections.abc import Sequence
from enum import IntEnum
from itertools import islice

from engine.errors import CapacityError


class BlockState(IntEnum):
    FREE = 0
    USED = 1
    """drawn by the pool's own step"""
    CACHED = 2
    """kept for its content; reclaimed when nobody has it pinned and free blocks run out"""
    LENT = 3
    STAGING = 4
    """drawn by the pool's own step for blocks on their way"""


HELD = (BlockState.USED, BlockState.LENT, BlockState.STAGING)


class Books:
    """States of ``num_blocks`` blocks. Every method changes all it names, or raises and nothing."""

    def __init__(self, num_blocks: int, *, num_last: int = 0) -> None:
        """The last ``num_last`` blocks are taken only when no other is free."""
        self.num_blocks = num_blocks
        self._first_last = num_blocks - num_last
        self._states = [BlockState.FREE] * num_blocks
        self._counts = Counter({BlockState.FREE: num_blocks})
        self._free = deque(reversed(range(num_blocks)))
        """taken from the right"""
        self._idle: dict[int, None] = {}
        """cached and unpinned, the longest idle first"""
        self._pins: dict[int, int] = {}
        """cached and pinned: how often"""
        self._content: dict[int, bytes] = {}
        self._cached: dict[bytes, int] = {}
        self.num_cachings = 0
        """grows whenever what is cached changes"""
        self.num_evicted = 0
        """cached blocks that were reclaimed since the pool began"""
        self.evicted: deque[bytes] = deque(maxlen=num_blocks)
        """contents of the latest of these, and of blocks that were given in vain, since another
        with the same was cached; whoever wants them takes them out"""

    def state(self, block: int) -> BlockState:
        return self._states[self._known(block)]

    def count(self, state: BlockState) -> int:
        return self._counts[state]

    def blocks(self, state: BlockState) -> list[int]:
        return [block for block, of in enumerate(self._states) if of is state]

    @property
    def num_available(self) -> int:
        """Blocks that ``take`` can give: free ones and idle cached ones."""
        return len(self._free) + len(self._idle)

    def take(self, num_blocks: int, state: BlockState) -> list[int]:
        """Blocks for a new holder; the longest idle cached ones when free ones run out."""
        if state not in HELD:
            raise ValueError(f"blocks are not taken to be {state.name}")
        if not 0 <= num_blocks <= self.num_available:
            raise CapacityError(
                f"{num_blocks} blocks wanted, {self.num_available} free of {self.num_blocks}"
            )
        for block in list(islice(self._idle, max(0, num_blocks - len(self._free)))):
            self._forget(block)
            self._let_go(block)
        taken = [self._free.pop() for _ in range(num_blocks)]
        for block in taken:
            self._move(block, state)
        return taken

    def free(self, blocks: Sequence[int], *allowed: BlockState) -> None:
        """Blocks of the ``allowed`` states (any held one by default) come back."""
        if len(set(blocks)) != len(blocks):
            raise ValueError("a block is named twice")
        for block in blocks:
            if self.state(block) not in (allowed or HELD):
                raise ValueError(f"block {block} is {self.state(block).name}")
        for block in blocks:
            self._let_go(block)

    def cache(self, block: int, content: bytes) -> bool:
        """Keep a used or lent block for its content hash; False when it became free.

        That happens when another block with the same content is cached already.
        """
        if content in self._cached:
            self.free([block], BlockState.USED, BlockState.LENT)
            return False
        if self.state(block) not in (BlockState.USED, BlockState.LENT):
            raise ValueError(f"block {block} is {self.state(block).name}")
        self._move(block, BlockState.CACHED)
        self._content[block] = content
        self._cached[content] = block
        self._idle[block] = None
        self.num_cachings += 1
        return True

    def find(self, content: bytes) -> int | None:
        return self._cached.get(content)

    def is_idle(self, block: int) -> bool:
        """Whether it is cached, and nobody has it pinned."""
        return block in self._idle

    def pin(self, block: int) -> None:
        """Protect a cached block from being reclaimed; pins add up."""
        if self.state(block) is not BlockState.CACHED:
            raise ValueError(f"block {block} is {self.state(block).name}")
        self._idle.pop(block, None)
        self._pins[block] = self._pins.get(block, 0) + 1

    def unpin(self, block: int) -> None:
        if block not in self._pins:
            raise ValueError(f"block {block} is not pinned")
        self._pins[block] -= 1
        if not self._pins[block]:
            del self._pins[block]
            self._idle[block] = None

    @property
    def contents(self) -> list[bytes]:
        """All that is cached."""
        return list(self._cached)

    @property
    def pins(self) -> dict[int, int]:
        """How often each pinned block is pinned."""
        return dict(self._pins)

    def check(self) -> None:
        """Conservation: each block in one state, each list agrees, the sums match."""
        assert len(self._states) == self.num_blocks
        assert +self._counts == Counter(self._states)
        assert sum(self._counts.values()) == self.num_blocks
        assert sorted(self._free) == self.blocks(BlockState.FREE)
        cached = set(self.blocks(BlockState.CACHED))
        assert not self._idle.keys() & self._pins.keys()
        assert self._idle.keys() | self._pins.keys() == cached == self._content.keys()
        assert self._cached == {content: block for block, content in self._content.items()}
        assert all(pins > 0 for pins in self._pins.values())

    def _known(self, block: int) -> int:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"block {block} of a pool of {self.num_blocks}")
        return block

    def _move(self, block: int, state: BlockState) -> None:
        self._counts[self._states[block]] -= 1
        self._counts[state] += 1
        self._states[block] = state

    def _let_go(self, block: int) -> None:
        self._move(block, BlockState.FREE)
        if block < self._first_last:
            self._free.append(block)
        else:
            self._free.appendleft(block)

    def _forget(self, block: int) -> None:
        del self._idle[block]
        content = self._content.pop(block)
        del self._cached[content]
        self.num_cachings += 1
        self.num_evicted += 1
        self.evicted.append(content)
