"""Tiles: how much a program of the kernels does at once."""

from __future__ import annotations

from dataclasses import dataclass

import triton

LEAST_TILE = 16
"""rows and columns of the smallest matrix product"""
TILE_BYTES = 32 << 10
"""of keys, and as many of values, at once: two stages are 128 of the 227 KiB of an SM"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """What a program does at once. Results depend on ``rows`` alone; the rest is speed."""

    rows: int = LEAST_TILE
    """query rows of a KV head that are attended together"""
    programs: int = 4 * 132
    """so many are wanted before one takes several leaves: four for each SM of an H100"""
    pairs: int = 4
    """(row, head) pairs of a merge program"""
    merges: int = 8
    """of a round that it does together"""
    writes: int = 16
    """(token, head) pairs of a write program"""
    scratch_bytes: int = 256 << 20
    """for partials of parts of nodes; a longer piece is computed in turns"""

    @staticmethod
    def suited(rows: int = LEAST_TILE) -> Tiles:
        """For an H100; in the interpreter few programs, since each costs milliseconds."""
        if triton.knobs.runtime.interpret:
            return Tiles(rows=rows, programs=1, pairs=64, merges=4, writes=256)
        return Tiles(rows=rows)
