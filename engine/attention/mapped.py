"""Mapped: lent blocks that a step reads in their holder's memory, and whether they still hold.

A block's generation changes before its first byte does. It is looked at once, at the step's end,
before anything is published.
"""

from collections import defaultdict

from engine.attention.lenders import Lenders
from engine.core import BlockRef
from engine.protocol import FencedOff


class Mapped:
    """Of one step; ``refs`` by sequence."""

    def __init__(self, lenders: Lenders, block_bytes: int) -> None:
        self._lenders = lenders
        self._block_bytes = block_bytes
        self.refs: dict[int, list[BlockRef]] = {}

    def begin(self) -> None:
        self.refs = {}

    def address(self, sequence: int, ref: BlockRef) -> int:
        """Where to read the block, which is noted; 0 where its holder's memory is not mapped."""
        lender = self._lenders.get(ref.instance)
        if lender is None or lender.generations is None:
            return 0
        self.refs.setdefault(sequence, []).append(ref)
        return lender.blocks_address + ref.block * self._block_bytes

    def changed(self, step: int) -> frozenset[int]:
        """Sequences that have read what their holder gave to somebody else meanwhile."""
        changed = set()
        fenced: defaultdict[int, set[int]] = defaultdict(set)
        for sequence, refs in self.refs.items():
            for ref in refs:
                lender = self._lenders.get(ref.instance)
                if lender is None or lender.generations is None:
                    changed.add(sequence)
                elif int(lender.generations[ref.block]) != ref.generation:
                    changed.add(sequence)
                    fenced[ref.instance].add(ref.loan)
        # Nobody was asked, so nobody says it: the loop treats it like the holder's own word.
        for instance, loans in fenced.items():
            message = FencedOff(step, sorted(loans), "mapped blocks were given away")
            self._lenders.inbox.append((instance, message))
        return frozenset(changed)
