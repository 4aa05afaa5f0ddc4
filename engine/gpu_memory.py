"""A GPU's memory in two processes of a host: what one shows, another opens (CUDA IPC by PyTorch).

Nothing that a peer sends is unpickled: the fields of PyTorch's own handle travel as a GpuMemory.
What the driver does to a kernel that reads memory whose process is killed is nowhere promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError
from engine.protocol import GpuMemory

if TYPE_CHECKING:
    from torch import Tensor


def shown(blocks: Tensor) -> GpuMemory:
    """For others to open while this process has it. All that was launched before is done then."""
    import torch

    torch.cuda.synchronize(blocks.device)  # so nobody needs the event that could be waited for
    of: Any = blocks.untyped_storage()
    _, handle, num_bytes, offset, counter, counter_offset, _, _ = of._share_cuda_()
    return GpuMemory(
        _name(_number(blocks.device)), handle, num_bytes, offset, counter, counter_offset
    )


def opened(memory: GpuMemory, device: str) -> Tensor:
    """Its bytes, which kernels on ``device`` can read; closed with the last reference, once what
    this thread has launched is done. Raises ConfigError."""
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]
    own = _number(torch.device(device))
    there = [number for number in range(torch.cuda.device_count()) if _name(number) == memory.gpu]
    if not there:
        raise ConfigError(f"its memory is of the GPU {memory.gpu}, which this process does not see")
    if fault := unreachable(own, there[0]):
        raise ConfigError(fault)
    storage: Any = torch.UntypedStorage
    fields = memory.handle, memory.num_bytes, memory.offset, memory.counter, memory.counter_offset
    try:
        # Opened on the own device: so CUDA gives this one access to the other.
        there_B = storage._new_shared_cuda(own, *fields, b"", False)
    except RuntimeError as error:
        raise ConfigError(f"CUDA does not open its memory ({error})") from error
    return torch.empty(0, dtype=torch.uint8, device=f"cuda:{own}").set_(there_B)


def unreachable(own: int, there: int) -> str:
    """Why GPU ``own`` cannot read the memory of GPU ``there``, or nothing."""
    import torch

    if own == there or torch.cuda.can_device_access_peer(own, there):
        return ""
    return f"cuda:{own} has no access to the memory of cuda:{there}"


def all_unreachable(devices: Sequence[str]) -> list[str]:
    """All faults between these GPUs."""
    import torch

    numbers = [_number(torch.device(name)) for name in devices]
    pairs = product(dict.fromkeys(numbers), repeat=2)
    return [fault for own, there in pairs if (fault := unreachable(own, there))]


def _number(device: Any) -> int:
    import torch

    return torch.cuda.current_device() if device.index is None else int(device.index)


def _name(number: int) -> str:
    """The same in all processes, whatever CUDA_VISIBLE_DEVICES is there."""
    import torch

    return str(torch.cuda.get_device_properties(number).uuid)
