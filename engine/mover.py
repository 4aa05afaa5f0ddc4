"""Mover: copies sealed blocks to lent slots in the background, a bounded amount at a time."""

from collections import Counter, deque

from engine.attention.lenders import Lenders
from engine.memory.base import MemoryPool
from engine.protocol import Ack, Write
from engine.scheduler.effects import Move


class Mover:
    """Moves are sent in parts, in order, per holder; a move ends with the holder's Ack."""

    def __init__(self, lenders: Lenders, pool: MemoryPool) -> None:
        self._lenders = lenders
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

    def cancel(self, sequence: int) -> None:
        """Stop the sequence's moves; what is queued at the channel still goes, to no effect."""
        for instance, queue in self._queues.items():
            self._queues[instance] = deque(part for part in queue if part[0].sequence != sequence)
        self._sent = {k: move for k, move in self._sent.items() if move.sequence != sequence}

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
                if not self._lenders.send(
                    instance, write, self._pool.block(move.block)[offset:end]
                ):
                    break

    def on_ack(self, instance: int, ack: Ack) -> Move | None:
        """The move that this Ack ends; None when it was cancelled meanwhile."""
        move = self._sent.pop((instance, ack.loan, ack.slot), None)
        if move is not None:
            self.moved_bytes[move.sequence] += self._pool.layout.block_bytes
        return move
