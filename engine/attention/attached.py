"""Attached: the tables of lent leaves that holders know of this step's sequences."""

from collections.abc import Mapping

from engine.attention.lenders import Lenders
from engine.core import BlockRef
from engine.protocol import Attach, Detach

Leaves = Mapping[int, BlockRef]
"""leaf -> where it is lent, ascending; told are their loans and slots"""


class Attached:
    """What each holder was told last, for each sequence."""

    def __init__(self, lenders: Lenders) -> None:
        self._lenders = lenders
        self._known: dict[tuple[int, int], tuple[int, Leaves]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def tell(self, instance: int, sequence: int, leaves: Leaves) -> None:
        """Send the table where it is not what the holder knows."""
        version, known = self._known.get((instance, sequence), (0, {}))
        if leaves is not known and leaves != known:
            self._known[instance, sequence] = (version + 1, leaves)
            table = [(leaf, ref.loan, ref.slot) for leaf, ref in leaves.items()]
            self._lenders.send(instance, Attach(sequence, version + 1, table))

    def versions(self, instance: int) -> dict[int, int]:
        """Of the holder's tables, by sequence."""
        return {
            sequence: version
            for (at, sequence), (version, _) in self._known.items()
            if at == instance
        }

    def forget_sequence(self, sequence: int) -> None:
        """The sequence is done or starts over: holders drop its tables."""
        for instance, known in list(self._known):
            if known == sequence:
                del self._known[instance, known]
                self._lenders.send(instance, Detach(sequence))

    def forget_instance(self, instance: int) -> None:
        """The holder has no table of ours any more."""
        for key in [key for key in self._known if key[0] == instance]:
            del self._known[key]
