"""The ranks of an instance as threads of this process."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from engine.comm.collective import Collective


class ThreadRanks:
    """``run`` calls a function once for each rank, with its Collective; the results by rank."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=60)
        self._given: list[Any] = [None] * size
        self.num_sums = 0

    def run(self, of_rank: Callable[[Collective], Any]) -> list[Any]:
        def run(rank: int) -> Any:
            try:
                return of_rank(ThreadCollective(self, rank))
            except BaseException:
                self._barrier.abort()  # nobody waits for this rank
                raise

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(run, range(self.size)))

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        """What each rank has given."""
        self._given[rank] = x
        self._barrier.wait()
        given = list(self._given)
        self._barrier.wait()
        return given


class ThreadCollective(Collective):
    def __init__(self, ranks: ThreadRanks, rank: int) -> None:
        self._ranks = ranks
        self.rank, self.size = rank, ranks.size

    def sum(self, x: Tensor) -> Tensor:
        given = self._ranks.exchange(self.rank, x)
        assert len({one.shape for one in given}) == 1
        if self.rank == 0:
            self._ranks.num_sums += 1
        total = given[0].float() if x.is_floating_point() else given[0].clone()
        for one in given[1:]:
            total = total + one
        return total.to(x.dtype)

    def gather(self, x_NV: Tensor, widths: Sequence[int]) -> Tensor:
        given = self._ranks.exchange(self.rank, x_NV)
        assert [one.shape[1] for one in given] == list(widths)
        return torch.cat(given, -1) if self.rank == 0 else x_NV
