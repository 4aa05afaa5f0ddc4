"""DGFM: debts in a circle, settled against each other (PAPER 2.2).

When a owes b, b owes c and c owes a, each member brings as many blocks home as the smallest of
these debts: all three are smaller then, and nobody needed more memory than one block at a time.
"""

from collections.abc import Mapping
from typing import NamedTuple

Debts = Mapping[tuple[int, int], int]
"""(debtor, creditor) -> blocks"""


class Settlement(NamedTuple):
    cycle: tuple[int, ...]
    """each owes the next, the last owes the first"""
    num_blocks: int

    @property
    def edges(self) -> list[tuple[int, int]]:
        return list(zip(self.cycle, (*self.cycle[1:], self.cycle[0]), strict=True))


def settlements(debts: Debts, min_swap: int, start: int) -> list[Settlement]:
    """Cycles worth settling now, each instance in one at most; ``start`` turns the search round.

    The paper begins at a random node; a start that moves with each round does the same.
    """
    nodes = sorted({node for edge in debts for node in edge})
    turned = [nodes[(start + at) % len(nodes)] for at in range(len(nodes))] if nodes else []
    found: list[Settlement] = []
    used: set[int] = set()
    for node in turned:
        cycle = _cycle(node, debts, used)
        if not cycle:
            continue
        settlement = Settlement(cycle, 0)
        num_blocks = min(debts[edge] for edge in settlement.edges)
        if num_blocks >= max(min_swap, 1):
            found.append(Settlement(cycle, num_blocks))
            used.update(cycle)
    return found


def _cycle(start: int, debts: Debts, used: set[int]) -> tuple[int, ...]:
    """The shortest way from a debtor back to itself."""
    paths: list[tuple[int, ...]] = [(start,)] if start not in used else []
    seen = {start}
    while paths:
        path = paths.pop(0)
        for debtor, creditor in sorted(debts):
            if debtor != path[-1] or not debts[debtor, creditor] or creditor in used:
                continue
            if creditor == start:
                return path
            if creditor not in seen:
                seen.add(creditor)
                paths.append((*path, creditor))
    return ()
