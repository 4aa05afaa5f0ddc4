"""BlockReads: lent rBlocks fetched in parts into own blocks, by whoever wants copies of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.attention.lenders import Lenders
from engine.core import BlockRef
from engine.memory.base import MemoryPool
from engine.protocol import Data, Read

Key = tuple[int, int, int]
"""(instance, loan, slot)"""


@dataclass(slots=True)
class _Reading:
    blocks: list[int]
    """own blocks it is wanted in; parts go to the first, and the whole from there to the others"""
    missing: dict[int, int]
    """offset -> bytes of the parts that are still to come"""


class BlockReads:
    """Reads under way. A block that nobody wants any more is forgotten; late parts go nowhere."""

    def __init__(self, lenders: Lenders, pool: MemoryPool) -> None:
        self._lenders = lenders
        self._pool = pool
        self._readings: dict[Key, _Reading] = {}
        lenders.on_data = self._on_data

    def ask(self, ref: BlockRef, block: int) -> None:
        """Begin to copy a lent block into an own one."""
        known = self._readings.get(_key(ref))
        if known is not None:
            known.blocks.append(block)
            return
        size, part_bytes = self._pool.layout.block_bytes, self._lenders.max_body_bytes
        parts = {at: min(part_bytes, size - at) for at in range(0, size, part_bytes)}
        self._readings[_key(ref)] = _Reading([block], dict(parts))
        for offset, num_bytes in parts.items():
            self._lenders.send(ref.instance, Read(ref.loan, ref.slot, offset, num_bytes))

    def wait(self, refs: Iterable[BlockRef], timeout_s: float) -> bool:
        """Let messages in until one comes; False when none came, or all of ``refs`` are here."""
        instances = {ref.instance for ref in refs if not self.is_here(ref)}
        return bool(instances) and self._lenders.pump(timeout_s, instances)

    def is_here(self, ref: BlockRef) -> bool:
        """Whether a read that was asked for is complete."""
        return _key(ref) not in self._readings

    def cancel(self, ref: BlockRef, block: int) -> None:
        """The own block is wanted for something else."""
        reading = self._readings.get(_key(ref))
        if reading is None or block not in reading.blocks:
            return
        if len(reading.blocks) > 1 and reading.blocks[0] == block:
            self._pool.write(reading.blocks[1], 0, self._pool.read(block))
        reading.blocks.remove(block)
        if not reading.blocks:
            del self._readings[_key(ref)]

    def _on_data(self, instance: int, message: Data, body: memoryview) -> None:
        key = (instance, message.loan, message.slot)
        reading = self._readings.get(key)
        if reading is None or message.offset not in reading.missing:
            return  # late: nobody wants it any more
        num_bytes = reading.missing[message.offset]
        if len(body) != num_bytes:
            self._lenders.drop(instance, f"block data of {len(body)} bytes, not {num_bytes}")
            return
        self._pool.write(reading.blocks[0], message.offset, body)
        del reading.missing[message.offset]
        if not reading.missing:
            del self._readings[key]
            first, *others = reading.blocks
            for block in others:
                self._pool.write(block, 0, self._pool.read(first))


def _key(ref: BlockRef) -> Key:
    return (ref.instance, ref.loan, ref.slot)
