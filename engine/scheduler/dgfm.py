"""DGFM: debts in a circle, settled against each other (PAPER 2.2).

When a owes b, b owes c and c owes a, each member brings as many blocks home as the smallest of
these debts: all three are smaller then, and nobody needed more memory than one block at a time.
"""

from collections.abc import Mapping
from typing import NamedTuple

MAX_CIRCLE = 8
"""members of the longest circle that is settled: all of them have to act at once, and to look for
longer ones takes time that grows faster than the cluster"""

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
    debtors: dict[int, list[int]] = {}
    for debtor, of in creditors.items():
        for creditor in of:
            debtors.setdefault(creditor, []).append(debtor)
    num_creditors = {debtor: len(of) for debtor, of in creditors.items()}
    num_debtors = {creditor: len(of) for creditor, of in debtors.items()}
    outside = [*(creditors.keys() ^ debtors.keys())]
    seen = {*outside}
    while outside:
        one = outside.pop()
        for others, counts in ((creditors, num_debtors), (debtors, num_creditors)):
            for other in others.get(one, ()):
                counts[other] -= 1
                if not counts[other] and other not in seen:
                    seen.add(other)
                    outside.append(other)
    return {
        debtor: [creditor for creditor in of if creditor not in seen]
        for debtor, of in creditors.items()
        if debtor not in seen
    }


def _cycle(start: int, creditors: dict[int, list[int]], used: set[int]) -> tuple[int, ...]:
    """The shortest way from a debtor back to itself."""
    if start in used or start not in creditors:
        return ()
    came_from = {start: start}
    last = [start]
    for _ in range(MAX_CIRCLE):
        reached = []
        for debtor in last:
            for creditor in creditors.get(debtor, ()):
                if creditor == start:
                    return _way(start, debtor, came_from)
                if creditor not in used and creditor not in came_from:
                    came_from[creditor] = debtor
                    reached.append(creditor)
        last = reached
    return ()


def _way(start: int, end: int, came_from: Mapping[int, int]) -> tuple[int, ...]:
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return tuple(reversed(path))
