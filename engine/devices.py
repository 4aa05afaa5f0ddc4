"""Devices: which of PyTorch's a recipe means. Imports torch only when asked.

Must not be asked in a supervisor: a process that has looked for GPUs cannot fork others that use
them.
"""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, device

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

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
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
