"""Mover: copies sealed blocks to lent slots in the background, a bounded amount at a time."""

import zlib
from collections import Counter, deque

from msgspec import structs

from engine.attention.lenders import Lenders
from engine.memory.base import MemoryPool
from engine.protocol import Ack, Write
from engine.scheduler.effects import Move


class Mover:
    """Moves are sent in parts, in order, per holder; a move ends with the holder's Ack."""

    def __init__(self, lenders: Lenders, pool: MemoryPool, *, checksums: bool = False) -> None:
        """``checksums``: holders check each block against its CRC-32."""
        self._lenders = lenders
        self._checksums = checksums
        self._pool = pool
        self._queues: dict[int, deque[tuple[Move, int, int]]] = {}
        self._sent: dict[tuple[int, int, int], Move] = {}
        self.moved_bytes: Counter[int] = Counter()
        """bytes that reached holders, by sequence"""

    @property
    def busy(self) -> bool:
        return any(self._queues.values())

    def add(self, move: Move) -> None:
        queue = self._queues.setdefault(move.to.instance, deque())
        size, part_bytes = self._pool.layout.block_bytes, self._lenders.max_body_bytes
        queue.extend((move, at, min(at + part_bytes, size)) for at in range(0, size, part_bytes))
        self._sent[move.to.instance, move.to.loan, move.to.slot] = move

    def cancel(self, sequence: int, leaf: int | None = None) -> None:
        """Stop one leaf's move, or all of the sequence's; what the channel has still goes."""

        def goes_on(move: Move) -> bool:
            return move.sequence != sequence or leaf not in (None, move.leaf)

        for instance, queue in self._queues.items():
            self._queues[instance] = deque(part for part in queue if goes_on(part[0]))
        self._sent = {key: move for key, move in self._sent.items() if goes_on(move)}

    def drop_instance(self, instance: int) -> None:
        self._queues.pop(instance, None)
        self._sent = {k: move for k, move in self._sent.items() if k[0] != instance}

    def push(self) -> None:
        """Send what the channels take without growing their backlog beyond the window."""
        size, part_bytes = self._pool.layout.block_bytes, self._lenders.max_body_bytes
        for instance, queue in self._queues.items():
            # One part may wait here; queries that come behind it must not wait for more.
            while queue and self._lenders.unsent_bytes(instance) < part_bytes:
                move, offset, end = queue.popleft()
                write = Write(move.to.loan, move.to.slot, offset, end == size)
                if write.last:
                    read = self._pool.read
                    checksum = zlib.crc32(read(move.block)) + 1 if self._checksums else 0
                    write = structs.replace(write, content=move.content, checksum=checksum)
                part = self._pool.read(move.block, offset, end)
                if not self._lenders.send(instance, write, part):
                    break

    def on_ack(self, instance: int, ack: Ack) -> Move | None:
        """The move that this Ack ends; None when it was cancelled meanwhile."""
        move = self._sent.pop((instance, ack.loan, ack.slot), None)
        if move is not None:
            self.moved_bytes[move.sequence] += self._pool.layout.block_bytes
        return move
