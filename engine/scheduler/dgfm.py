"""DGFM: debts in a circle, settled against each other (PAPER 2.2).

When a owes b, b owes c and c owes a, each member brings as many blocks home as the smallest of
these debts: all three are smaller then, and nobody needed more memory than one block at a time.
"""

from collections import deque
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
    creditors: dict[int, list[int]] = {}
    nodes = set()
    for debtor, creditor in sorted(debts):
        nodes |= {debtor, creditor}
        if debts[debtor, creditor]:
            creditors.setdefault(debtor, []).append(creditor)
    creditors = _within_circles(creditors)
    ordered = sorted(nodes)
    turned = [ordered[(start + at) % len(ordered)] for at in range(len(ordered))]
    found: list[Settlement] = []
    used: set[int] = set()
    for node in turned:
        cycle = _cycle(node, creditors, used)
        if not cycle:
            continue
        settlement = Settlement(cycle, 0)
        num_blocks = min(debts[edge] for edge in settlement.edges)
        if num_blocks >= max(min_swap, 1):
            found.append(Settlement(cycle, num_blocks))
            used.update(cycle)
    return found


def _within_circles(creditors: dict[int, list[int]]) -> dict[int, list[int]]:
    """Without those who owe nobody or are owed nothing, again and again: they are in no circle."""
    while True:
        owed = {creditor for of in creditors.values() for creditor in of}
        left = {
            debtor: [one for one in of if one in creditors]
            for debtor, of in creditors.items()
            if debtor in owed
        }
        left = {debtor: of for debtor, of in left.items() if of}
        if left == creditors:
            return left
        creditors = left


def _cycle(start: int, creditors: dict[int, list[int]], used: set[int]) -> tuple[int, ...]:
    """The shortest way from a debtor back to itself."""
    if start in used or start not in creditors:
        return ()
    came_from = {start: start}
    queue = deque([start])
    while queue:
        debtor = queue.popleft()
        for creditor in creditors.get(debtor, ()):
            if creditor == start:
                path = [debtor]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return tuple(reversed(path))
            if creditor not in used and creditor not in came_from:
                came_from[creditor] = debtor
                queue.append(creditor)
    return ()
