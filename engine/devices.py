"""Devices: which of PyTorch's a recipe means. Imports torch only when asked.

Must not be asked in a supervisor: a process that has looked for GPUs cannot fork others that use
them.
"""

from __future__ import annotations

import logging
import re
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, device

log = logging.getLogger(__name__)

KNOWN = re.compile(r"auto|cpu|cuda(:[0-9]+)?")


def fault_of(name: str) -> str:
    """Why it is no device's name, or nothing; asks for none."""
    if KNOWN.fullmatch(name):
        return ""
    return f"{name!r} is no device: give auto, cpu, cuda, or one GPU as cuda:1"


def pick(name: str) -> str:
    """``auto`` is a CUDA GPU where there is one, else the CPU; raises ConfigError in a sentence."""
    if fault := fault_of(name):
        raise ConfigError(fault)
    if name == "cpu":
        return name
    import torch

    there = num_gpus()
    if name == "auto":
        return "cuda" if there else "cpu"
    if not there:
        raise ConfigError(
            f"the device {name} is wanted, and PyTorch {torch.__version__} finds no CUDA GPU: use "
            "cpu, or a machine with a GPU and a build of PyTorch for CUDA"
        )
    number = int(name.partition(":")[2] or 0)
    if number >= there:
        raise ConfigError(
            f"the device {name} is wanted, and there are {there} GPUs: use cuda:0 to "
            f"cuda:{there - 1}"
        )
    return name


def num_gpus() -> int:
    """Those that PyTorch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def own(name: str, seat: int, seats: int, *, tp: int = 1) -> str:
    """``pick`` for one of ``seats`` step processes of a host, each of which is to have its own GPU.

    With fewer GPUs than seats instances share them; but the ``tp`` ranks of one, which add up over
    NCCL, cannot: then ``auto`` is the CPU, with a warning. Raises ConfigError.
    """
    picked = pick(name)
    if picked != "cuda":  # the CPU, or one by its number
        return picked
    if tp > 1 and (reason := why_no_group(seats)):
        if name != "auto":
            raise ConfigError(f"the device {name} is wanted for tp={tp} ranks, and {reason}")
        if not seat:
            log.warning("tp=%d ranks compute on the CPU: %s", tp, reason)
        return "cpu"
    return f"cuda:{seat % num_gpus()}"


def why_no_group(seats: int) -> str:
    """Why so many ranks cannot add up over this host's GPUs, or nothing."""
    import torch.distributed as dist

    there = num_gpus()
    if seats > there:
        return (
            f"NCCL needs a GPU for each of the {seats} ranks of all instances here, and there are "
            f"{there}: lower tp or instances, or use the device cpu"
        )
    if not dist.is_nccl_available():
        return "this build of PyTorch has no NCCL: use one for CUDA, or the device cpu"
    return ""


def enter(name: str) -> None:
    """From now on this thread's kernels are launched on the device ``name``."""
    if ":" in name:
        import torch

        torch.cuda.set_device(name)


def on(name: str) -> AbstractContextManager[Any]:
    """Within, this thread's kernels are launched on the device ``name``."""
    if ":" not in name:
        return nullcontext()
    import torch

    return torch.cuda.device(name)


def sent(table: Tensor, to: device) -> Tensor:
    """What lies on the host, for kernels that this thread launches from now on; nobody waits."""
    if to.type == "cpu":
        return table
    return table.pin_memory().to(to, non_blocking=True)


def fetched(there: Tensor) -> Tensor:
    """A copy on the host, for which it waits, and so for all that this thread has launched."""
    import torch

    host = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    host.copy_(there, non_blocking=True)
    torch.cuda.current_stream(there.device).synchronize()
    return host


def show(owner: object, first: int, num_bytes: int) -> None:
    """Pin host memory and map it for GPUs, which see it at the same addresses, while there is an
    ``owner``. Raises ConfigError."""
    import torch

    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    portable_and_mapped = 3
    error = int(cudart.cudaHostRegister(first, num_bytes, portable_and_mapped))
    if error:
        raise ConfigError(
            f"CUDA cannot map {num_bytes:,} bytes of host memory for the GPU (error {error}): "
            "lower pool.num_blocks or pool.lending.host_blocks, or use the backend native"
        )
    weakref.finalize(owner, cudart.cudaHostUnregister, first)
