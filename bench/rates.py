"""What the machine can do at all, measured in the same run: the bounds of other figures."""

import time
from collections.abc import Callable

import numpy as np
import torch

STREAM_BYTES = 1 << 29
"""far more than the caches"""
MATRIX = 2048


def best_s(run: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def stream_gb_s(threads: int) -> float:
    """Reading memory in order, each thread its own part."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    data = torch.from_numpy(np.ones(STREAM_BYTES // 8, np.int64))
    seconds = best_s(data.sum)
    torch.set_num_threads(before)
    return STREAM_BYTES / seconds / 1e9


def matrix_gflops(threads: int) -> float:
    """A square product, of bfloat16 or float32: processors that lack the first are slow at it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    wide = torch.randn(MATRIX, MATRIX)
    narrow = wide.bfloat16()
    seconds = min(best_s(lambda: narrow @ narrow), best_s(lambda: wide @ wide))
    torch.set_num_threads(before)
    return 2 * MATRIX**3 / seconds / 1e9
