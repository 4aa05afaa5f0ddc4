"""TorchCollective: torch.distributed groups of one instance's ranks, one for each kind of memory.

What lies on the host goes over gloo; where the model runs on GPUs, what lies there goes over NCCL
and never touches the host. Everyone's order is the order of its own calls, for each group.

The ranks meet in an anonymous file that their supervisor made for this incarnation of the instance
(``meeting_file``): it goes with them, so none ever meets the ranks of an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    def __init__(self, meeting_file: int, rank: int, size: int, device: str = "cpu") -> None:
        """Waits for all ``size`` ranks, which are on this host.

        ``meeting_file`` is the descriptor of a file that is empty before the first rank has it.
        ``device`` is where this rank's model runs: all ranks' are GPUs, no two the same, or none.
        """
        self.rank, self.size = rank, size
        store = dist.FileStore(f"/proc/self/fd/{meeting_file}")  # type: ignore[attr-defined]
        with self._together():
            self._groups = {
                kind: GROUPS[kind](dist.PrefixStore(kind, store), rank, size)  # type: ignore[attr-defined]
                for kind in dict.fromkeys(("cpu", torch.device(device).type))
            }

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        total = x.to(torch.float32, copy=True) if x.is_floating_point() else x.clone()
        with self._together():
            _settle(self._of(x).allreduce([total]))
        return total.to(x.dtype)

    def gather(self, x_NV: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        if not x_NV.numel():  # by all ranks, as they have the same rows
            return x_NV.new_empty(len(x_NV), sum(widths) if self.rank == 0 else x_NV.shape[1])
        group = self._of(x_NV)
        with self._together():
            if self.rank:
                _settle(group.send([x_NV.contiguous()], 0, self.rank))
                return x_NV
            parts = [x_NV, *(x_NV.new_empty(len(x_NV), width) for width in widths[1:])]
            for work in [group.recv([parts[at]], at, at) for at in range(1, self.size)]:
                _settle(work)
        return torch.cat(parts, -1)

    def _of(self, x: torch.Tensor) -> Any:
        return self._groups[x.device.type]

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise PeerLost(f"rank {self.rank} of {self.size} has lost another: {reason}") from error


def _settle(work: Any) -> None:
    """On the host it is done now; on a GPU what is launched from now on comes behind it.

    Without a timeout: with one the host would wait for the GPU, once for each sum.
    """
    work.wait()


def _gloo(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = FOREVER
    options._threads = 1
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    """Its communicator is made by the first sum, on the GPU of that tensor."""
    return dist.ProcessGroupNCCL(store, rank, size, FOREVER)  # type: ignore[arg-type]


GROUPS: dict[str, Callable[[Any, int, int], Any]] = {"cpu": _gloo, "cuda": _nccl}
"""by the kind of memory"""
