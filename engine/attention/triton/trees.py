"""Tree: a merge program in rounds, as the merge kernel takes it. No triton, no torch.

Merges of one round need nothing of each other, so a program of the kernel does them together: a
tree of n partials takes log2 n rounds, not n - 1 turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.attention.tree import MergeProgram

Ints = NDArray[np.int32]


class Perfect(NamedTuple):
    """A node whose ``num_parts`` (a power of two) equal subtrees lie one behind the other."""

    at: int
    """row of the first part; each has ``num_rows``"""
    num_parts: int
    num_rows: int
    to: int
    """row where the node goes"""


@dataclass(frozen=True, slots=True)
class Tree:
    merges_M2: Ints
    """left and right row; the number of rows is the root's"""
    rounds: Ints
    """merges ``[rounds[i], rounds[i + 1])`` are round i"""
    roots_S5: Ints
    """node row or -1, finished row, number of rows, first round, last round + 1"""

    @property
    def max_rows(self) -> int:
        return int(self.roots_S5[:, 2].max(initial=0))

    @staticmethod
    def of(program: MergeProgram) -> Tree:
        """The program's merges by root and, for each, by what they need of others."""
        merges, roots = program.merges_M3.tolist(), program.roots_S3.tolist()
        owner = {at: number for number, (at, _, _) in enumerate(roots) if at >= 0}
        for left, right, _ in reversed(merges):
            owner[right] = owner[left]
        depth: dict[int, int] = {}
        keys = []
        for left, right, _ in merges:
            needs = max(depth.get(left, 0), depth.get(right, 0))
            keys.append((owner[left], needs))
            depth[left] = needs + 1
        order = sorted(range(len(merges)), key=keys.__getitem__)
        starts = [i for i, at in enumerate(order) if not i or keys[at] != keys[order[i - 1]]]
        owners = [keys[order[start]][0] for start in starts]
        first = np.searchsorted(owners, range(len(roots)))
        last = np.searchsorted(owners, range(len(roots)), side="right")
        return Tree(
            program.merges_M3[order, :2],
            np.array([*starts, len(merges)], np.int32),
            np.column_stack([program.roots_S3, first, last]).astype(np.int32),
        )

    @staticmethod
    def over(nodes: Iterable[Perfect]) -> Tree:
        merges = [np.empty((0, 2), np.int32)]
        rounds, roots = [0], []
        for at, num_parts, num_rows, to in nodes:
            first = len(rounds) - 1
            step = 1
            while step < num_parts:
                left = at + num_rows * np.arange(0, num_parts, 2 * step, dtype=np.int32)
                merges.append(np.stack([left, left + num_rows * step], 1))
                rounds.append(rounds[-1] + len(left))
                step *= 2
            roots.append((at, to, num_rows, first, len(rounds) - 1))
        return Tree(
            np.concatenate(merges),
            np.array(rounds, np.int32),
            np.array(roots, np.int32).reshape(-1, 5),
        )
