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
        """The last ``num_last`` blocks are taken only when no other is free or cached unread: a
        sequence that lies in slower memory pays in each step, who finds nothing cached pays once.
        """
        self.num_blocks = num_blocks
        self._first_last = num_blocks - num_last
        self._states = [BlockState.FREE] * num_blocks
        self._counts = Counter({BlockState.FREE: num_blocks})
        first, last = range(self._first_last), range(self._first_last, num_blocks)
        self._free = [*reversed(first)], [*reversed(last)]
        """those that are taken first, and the last ones; each from its end"""
        self._idle: tuple[dict[int, None], dict[int, None]] = {}, {}
        """cached and unpinned, the longest idle first; as ``_free``"""
        self._pins: dict[int, int] = {}
        """cached and pinned: how often"""
        self._content: dict[int, bytes] = {}
        self._cached: dict[bytes, int] = {}
        self.num_changes = 0
        """grows whenever anything here changes"""
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
        return self.num_first_available + len(self._free[1]) + len(self._idle[1])

    @property
    def num_first_available(self) -> int:
        """So many of them before it gives any of the last ones."""
        return len(self._free[0]) + len(self._idle[0])

    def take(self, num_blocks: int, state: BlockState) -> list[int]:
        """Blocks for a new holder; the longest idle cached ones when free ones run out."""
        if state not in HELD:
            raise ValueError(f"blocks are not taken to be {state.name}")
        if not 0 <= num_blocks <= self.num_available:
            raise CapacityError(
                f"{num_blocks} blocks wanted, {self.num_available} free of {self.num_blocks}"
            )
        taken: list[int] = []
        for free, idle in zip(self._free, self._idle, strict=True):
            missing = num_blocks - len(taken)
            for block in list(islice(idle, max(0, missing - len(free)))):
                self._forget(block)
                self._let_go(block)
            taken += [free.pop() for _ in range(min(missing, len(free)))]
        for block in taken:
            self._move(block, state)
        return taken

    def free(self, blocks: Sequence[int], *allowed: BlockState) -> None:
        """Blocks of the ``allowed`` states (any held one by default) come back."""
        if len(set(blocks)) != len(blocks):
            raise ValueError("a block is named twice")
        may_be = allowed or HELD
        for block in blocks:
            if self.state(block) not in may_be:
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
        self._idle[self._part(block)][block] = None
        self.num_cachings += 1
        return True

    def find(self, content: bytes) -> int | None:
        return self._cached.get(content)

    def is_idle(self, block: int) -> bool:
        """Whether it is cached, and nobody has it pinned."""
        return block in self._idle[self._part(block)]

    def pin(self, block: int) -> None:
        """Protect a cached block from being reclaimed; pins add up."""
        if self.state(block) is not BlockState.CACHED:
            raise ValueError(f"block {block} is {self.state(block).name}")
        self.num_changes += 1
        self._idle[self._part(block)].pop(block, None)
        self._pins[block] = self._pins.get(block, 0) + 1

    def unpin(self, block: int) -> None:
        if block not in self._pins:
            raise ValueError(f"block {block} is not pinned")
        self.num_changes += 1
        self._pins[block] -= 1
        if not self._pins[block]:
            del self._pins[block]
            self._idle[self._part(block)][block] = None

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
        assert sorted([*self._free[0], *self._free[1]]) == self.blocks(BlockState.FREE)
        cached, idle = set(self.blocks(BlockState.CACHED)), {*self._idle[0], *self._idle[1]}
        assert not idle & self._pins.keys()
        assert idle | self._pins.keys() == cached == self._content.keys()
        assert all(block < self._first_last for block in (*self._free[0], *self._idle[0]))
        assert all(block >= self._first_last for block in (*self._free[1], *self._idle[1]))
        assert self._cached == {content: block for block, content in self._content.items()}
        assert all(pins > 0 for pins in self._pins.values())

    def _part(self, block: int) -> int:
        return int(block >= self._first_last)

    def _known(self, block: int) -> int:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"block {block} of a pool of {self.num_blocks}")
        return block

    def _move(self, block: int, state: BlockState) -> None:
        self.num_changes += 1
        self._counts[self._states[block]] -= 1
        self._counts[state] += 1
        self._states[block] = state

    def _let_go(self, block: int) -> None:
        self._move(block, BlockState.FREE)
        self._free[self._part(block)].append(block)

    def _forget(self, block: int) -> None:
        del self._idle[self._part(block)][block]
        content = self._content.pop(block)
        del self._cached[content]
        self.num_cachings += 1
        self.num_evicted += 1
        self.evicted.append(content)
