"""Windows: memory of a receiver into which one sender writes bodies, as both ends see it.

Who is written to cannot stop a write that is under way, nor can the sender once it has begun. So
the addresses of both ends serve nothing else until the sender has said that it writes no more; if
it never says so, they stay reserved, and what comes late falls on pages that nobody reads.
"""

import mmap
from collections import deque

from engine.comm.frame import ALIGN_BYTES, align
from engine.comm.nixl_agent import Agent, Write, address_of
from engine.errors import PeerLost

_RESERVED: list[mmap.mmap] = []


class Memory:
    """So many bytes on pages of their own, shown to NIXL."""

    def __init__(self, agent: Agent, num_bytes: int) -> None:
        self._agent = agent
        self._mapped = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self._mapped)
        self.address = address_of(self.view)
        self._shown = agent.show(self.address, num_bytes)
        self.card = agent.card(self._shown)
        """what a peer needs to write here, and only here"""

    def body(self, offset: int, num_bytes: int) -> memoryview:
        """What was written here, in place. Raises PeerLost when it would lie outside."""
        if offset % ALIGN_BYTES or offset + num_bytes > len(self.view):
            raise PeerLost(
                f"announces {num_bytes} bytes at {offset} of a window of {len(self.view)}"
            )
        return self.view[offset : offset + num_bytes]

    def reserve(self) -> None:
        """For good: somebody may still write here. The pages themselves are given back."""
        self._agent.hide(self._shown)
        self._mapped.madvise(mmap.MADV_DONTNEED)
        _RESERVED.append(self._mapped)


class Stock:
    """Memory for the channels of a transport; what nobody writes to any more is used again."""

    def __init__(self, agent: Agent, num_bytes: int) -> None:
        self.agent = agent
        self.num_bytes = num_bytes
        self._quiet: list[Memory] = []
        self._taken: set[Memory] = set()

    def take(self) -> Memory:
        memory = self._quiet.pop() if self._quiet else Memory(self.agent, self.num_bytes)
        self._taken.add(memory)
        return memory

    def give_back(self, memory: Memory, *, quiet: bool) -> None:
        """``quiet``: its sender writes no more."""
        self._taken.remove(memory)
        if quiet:
            self._quiet.append(memory)
        else:
            memory.reserve()

    def close(self) -> None:
        """After the channels; the agent ends too."""
        for memory in self._taken:  # of channels that nobody closed
            memory.reserve()
        self._taken.clear()
        self._quiet.clear()
        self.agent.close()


class Places:
    """A ring of places in a window, given back in the order in which they were taken."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._taken: deque[int] = deque()
        self._end = 0

    def take(self, num_bytes: int) -> int | None:
        """An offset with room for so many bytes, which it takes; None when there is none now."""
        size = align(num_bytes)
        start, stop = 0, self.num_bytes
        if self._taken:
            start, stop = self._end, self._taken[0]
            if start > stop:  # the free room is in two parts
                if start + size <= self.num_bytes:
                    stop = self.num_bytes
                else:
                    start = 0
        if start + size > stop:
            return None
        self._taken.append(start)
        self._end = start + size
        return start

    def give_back(self) -> None:
        """The oldest place was read. Raises PeerLost when none was taken."""
        if not self._taken:
            raise PeerLost("gives back more of its window than was used")
        self._taken.popleft()


class Window:
    """A peer's window, where bodies are written to."""

    def __init__(self, stock: Stock, card: bytes, address: int, num_bytes: int) -> None:
        """Raises PeerLost when it is out of reach."""
        self._stock = stock
        self._peer = stock.agent.meet(card)
        self._address = address
        self._staging = stock.take()
        self.places = Places(min(num_bytes, stock.num_bytes))

    def write(self, offset: int, parts: list[bytes | memoryview], region: range) -> Write:
        """Starts to write a body there. ``region``: addresses that need no copy on the way."""
        num_bytes = sum(map(len, parts))
        here = address_of(parts[0]) if len(parts) == 1 else 0
        if not (here in region and here + num_bytes <= region.stop):
            here, at = self._staging.address + offset, offset
            for part in parts:
                self._staging.view[at : at + len(part)] = part
                at += len(part)
        return self._stock.agent.write(self._peer, here, self._address + offset, num_bytes)

    def close(self, *, quiet: bool) -> None:
        """``quiet``: all that was written has arrived."""
        self._stock.agent.part(self._peer)
        self._stock.give_back(self._staging, quiet=quiet)
