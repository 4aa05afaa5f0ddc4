"""TorchCollective: a torch.distributed group of one instance's ranks, over gloo.

The ranks meet in an anonymous file that their supervisor made for this incarnation of the instance
(``meeting_file``): it goes with them, so none ever meets the ranks of an older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from engine.comm.collective import Collective
from engine.errors import PeerLost

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREVER = timedelta(days=365)
"""an idle rank waits, and a supervisor ends those whose fellow has died; a timeout would end all"""


class TorchCollective(Collective):
    def __init__(self, meeting_file: int, *, rank: int, size: int) -> None:
        """Waits for all ``size`` ranks, which are on this host.

        ``meeting_file`` is the descriptor of a file that is empty before the first rank has it.
        """
        self.rank, self.size = rank, size
        store = dist.FileStore(f"/proc/self/fd/{meeting_file}")  # type: ignore[attr-defined]
        with self._together():
            self._group = _group(store, rank, size)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        total = x.to(torch.float32, copy=True) if x.is_floating_point() else x.clone()
        with self._together():
            self._group.allreduce([total]).wait(FOREVER)
        return total.to(x.dtype)

    def gather(self, x_NV: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        if not x_NV.numel():  # by all ranks, as they have the same rows
            return x_NV.new_empty(len(x_NV), sum(widths) if self.rank == 0 else x_NV.shape[1])
        with self._together():
            if self.rank:
                self._group.send([x_NV.contiguous()], 0, self.rank).wait(FOREVER)
                return x_NV
            parts = [x_NV, *(x_NV.new_empty(len(x_NV), width) for width in widths[1:])]
            pending = [self._group.recv([parts[at]], at, at) for at in range(1, self.size)]
            for work in pending:
                work.wait(FOREVER)
        return torch.cat(parts, -1)

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise PeerLost(f"rank {self.rank} of {self.size} has lost another: {reason}") from error


def _group(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = FOREVER
    options._threads = 1
    return dist.ProcessGroupGloo(store, rank, size, options)
