"""The header of a pool: one 64-bit counter for each block. Knows nothing of what blocks hold.

With the native helper the counters are read and grown atomically, so another process may watch
them through its own map of the region. Without it they are plain memory, good for one process.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.native import library


class Generations:
    """Counters at the start of ``region``, which may be a read-only map of somebody else's."""

    def __init__(self, region: memoryview, num_blocks: int, *, atomic: bool) -> None:
        """``atomic`` needs the native helper: see ``has_atomics``."""
        self._num_blocks = num_blocks
        self._view = region[: num_blocks * 8].cast("Q")
        self._address = address_of(region)
        self._atomics = _atomics() if atomic else None

    def load(self, block: int) -> int:
        address = self._counter(block)
        return int(self._atomics[0](address)) if self._atomics else self._view[block]

    def bump(self, block: int) -> None:
        """Grow a counter; only the pool's own process may."""
        grown = self.load(block) + 1
        if self._atomics:
            self._atomics[1](self._counter(block), grown)
        else:
            self._view[block] = grown

    def close(self) -> None:
        self._view.release()
        self._num_blocks = 0

    def _counter(self, block: int) -> int:
        if not 0 <= block < self._num_blocks:
            raise IndexError(f"block {block} of a pool of {self._num_blocks}")
        return self._address + 8 * block


def has_atomics() -> bool:
    """Whether this machine can compile or load the native helper."""
    try:
        _atomics()
    except ConfigError:
        return False
    return True


def address_of(region: memoryview) -> int:
    return int(np.frombuffer(region, dtype=np.uint8).ctypes.data)


@cache
def _atomics() -> tuple[Callable[[int], Any], Callable[[int, int], Any]]:
    loaded = library.load()
    load = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)
    store = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)
    return (
        load(("lk_load_acquire_u64", loaded)),
        store(("lk_store_release_u64", loaded)),
    )
