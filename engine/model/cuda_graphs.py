"""CudaRecorder: what a function launches on a GPU, as one CUDA graph.

It has not run on a GPU yet: ``python -m bench.gpu`` compares steps with graphs and without.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch


class CudaRecorder:
    """Graphs of one thread, replayed in the order in which they were recorded, never two at once:
    so they share memory for what they compute on the way."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream: Any = None
        self._pool: Any = None

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Records what ``run`` would launch; launches nothing. It must have run before, and may not
        wait for the GPU. Raises RuntimeError where it cannot be recorded."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # The pool role's thread goes on meanwhile, and may ask for memory.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                run()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay
