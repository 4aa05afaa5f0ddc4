"""Places: where a table's leaves lie, as arrays. A table that grew at its end is not looked
through again: tables of long sequences have thousands of leaves, and each step adds one at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.core import BlockRef, Plan


@dataclass(frozen=True, slots=True)
class Places:
    table: tuple[BlockRef, ...]
    leaves: NDArray[np.int32]
    """those in the own pool, ascending"""
    addresses: NDArray[np.uint64]
    """of their rBlocks' first bytes"""
    lent: Mapping[int, Mapping[int, BlockRef]]
    """holder -> leaf -> where it is lent"""

    @property
    def num_lent(self) -> int:
        return len(self.table) - len(self.leaves)

    def now(self, table: tuple[BlockRef, ...], address_of: Callable[[int], int]) -> Places:
        """Of the table as it is by now; ``address_of`` a block of the own pool."""
        num_known = len(self.table)
        if table is self.table:
            return self
        if table[:num_known] != self.table:
            return NOWHERE_YET.now(table, address_of)
        own: list[int] = []
        lent = {holder: dict(refs) for holder, refs in self.lent.items()}
        for leaf, ref in enumerate(table[num_known:], num_known):
            if ref.loan:
                lent.setdefault(ref.instance, {})[leaf] = ref
            else:
                own.append(leaf)
        addresses = np.array([address_of(table[leaf].block) for leaf in own], np.uint64)
        return Places(
            table,
            np.concatenate([self.leaves, np.array(own, np.int32)]),
            np.concatenate([self.addresses, addresses]),
            lent,
        )

    def along(self, at_hand: Mapping[int, int]) -> Places:
        """With lent leaves that have an address as well."""
        if not at_hand:
            return self
        leaves = np.concatenate([self.leaves, np.array(list(at_hand), np.int32)])
        more = np.array(list(at_hand.values()), np.uint64)
        order = np.argsort(leaves)
        addresses = np.concatenate([self.addresses, more])[order]
        return Places(self.table, leaves[order], addresses, self.lent)


NOWHERE_YET = Places((), np.empty(0, np.int32), np.empty(0, np.uint64), {})


class KnownPlaces:
    """Of the sequences in the latest plan."""

    def __init__(self, address_of: Callable[[int], int]) -> None:
        self._address_of = address_of
        self._known: dict[int, Places] = {}

    def of(self, plan: Plan) -> list[Places]:
        """For each of the plan's spans."""
        known = self._known
        self._known = {
            span.sequence: known.get(span.sequence, NOWHERE_YET).now(span.table, self._address_of)
            for span in plan.spans
        }
        return [self._known[span.sequence] for span in plan.spans]
