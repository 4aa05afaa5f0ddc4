"""Mapped: lent blocks that a step reads in their holder's memory, and whether they still hold.

A block's generation changes before its first byte does. It is looked at once, at the step's end,
before anything is published. What is read stays mapped until the next step, whoever dies meanwhile.
"""

from collections import defaultdict

from engine.attention.lenders import Lender, Lenders
from engine.core import BlockRef
from engine.protocol import FencedOff


class Mapped:
    """Of one step; ``refs`` by sequence."""

    def __init__(self, lenders: Lenders, block_bytes: int, maps: str) -> None:
        """``maps``: where memory must lie to be read in place (``LocalBackend.maps``)."""
        lenders.maps = maps
        self._lenders = lenders
        self._block_bytes = block_bytes
        self.refs: dict[int, list[BlockRef]] = {}
        self._read: dict[int, tuple[Lender, object]] = {}
        """by instance: who it was, and the memory that is read"""

    def begin(self) -> None:
        self.refs = {}
        self._read = {}

    def address(self, sequence: int, ref: BlockRef) -> int:
        """Where to read the block, which is noted; 0 where its holder's memory is not mapped."""
        lender = self._lenders.get(ref.instance)
        if lender is None or lender.generations is None:
            return 0
        self.refs.setdefault(sequence, []).append(ref)
        self._read[ref.instance] = lender, lender.memory
        return lender.blocks_address + ref.block * self._block_bytes

    def changed(self, step: int) -> frozenset[int]:
        """Sequences that have read what their holder gave to somebody else meanwhile."""
        on_gpus = [one for one, (lender, _) in self._read.items() if lender.is_on_gpu]
        if on_gpus:  # what a GPU makes of a dead process's memory is nowhere written: who lives?
            self._lenders.pump(0.0, on_gpus)
        changed = set()
        fenced: defaultdict[int, set[int]] = defaultdict(set)
        for sequence, refs in self.refs.items():
            for ref in refs:
                lender, _ = self._read[ref.instance]
                if lender.generations is None:
                    changed.add(sequence)
                elif int(lender.generations[ref.block]) != ref.generation:
                    changed.add(sequence)
                    fenced[ref.instance].add(ref.loan)
        # Nobody was asked, so nobody says it: the loop treats it like the holder's own word.
        for instance, loans in fenced.items():
            message = FencedOff(step, sorted(loans), "mapped blocks were given away")
            self._lenders.inbox.append((instance, message))
        return frozenset(changed)
