"""Tree: a merge program in rounds, as the merge kernel takes it. No triton, no torch.

Merges of one round need nothing of each other, so a program of the kernel does them together: a
tree of n partials takes log2 n rounds, not n - 1 turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.attention.tree import MergeProgram

Ints = NDArray[np.int32]


def numbered(counts: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``counts[i]`` things of each i, one behind the other: the i of each, and its number there.

    ``numbered([2, 0, 3])`` is ``[0, 0, 2, 2, 2], [0, 1, 0, 1, 2]``.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


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
    def over(
        at_N: NDArray[Any], depth_N: NDArray[Any], num_rows_N: NDArray[Any], to_N: NDArray[Any]
    ) -> Tree:
        """Of nodes whose ``2 ** depth`` equal subtrees, of so many rows each, lie one behind the
        other from row ``at`` on; each node goes to row ``to``."""
        node_R, round_R = numbered(depth_N)
        merges_R = 1 << (depth_N[node_R] - round_R - 1)
        round_M, merge_M = numbered(merges_R)
        step_M = (num_rows_N[node_R] << round_R)[round_M]
        left_M = at_N[node_R][round_M] + 2 * merge_M * step_M
        ends_N = np.cumsum(depth_N)
        return Tree(
            np.stack([left_M, left_M + step_M], 1).astype(np.int32),
            np.cumsum([0, *merges_R], dtype=np.int32),
            np.stack([at_N, to_N, num_rows_N, ends_N - depth_N, ends_N], 1).astype(np.int32),
        )
