"""How a GPU's memory is shown and opened: what is handed to PyTorch, whose calls are stood in for.

That CUDA does what is asked is for bench.gpu_mapped to see.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing import reductions

from engine import gpu_memory
from engine.errors import ConfigError
from engine.protocol import FROM_POOL, GpuMemory, Welcome, encode

SHOWN = (0, b"handle", 4096, 512, b"counter", 7, b"event", True)


class Storage:
    def _share_cuda_(self) -> tuple[Any, ...]:
        return SHOWN


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], bool]:
    """Two of them; which has access to which other one."""
    access = {(0, 1): True, (1, 0): False}
    names = ["GPU-a", "GPU-b"]
    for name, stand_in in (
        ("synchronize", lambda device: None),
        ("init", lambda: None),
        ("device_count", lambda: 2),
        ("current_device", lambda: 0),
        ("get_device_properties", lambda number: SimpleNamespace(uuid=names[number])),
        ("can_device_access_peer", lambda own, there: access[own, there]),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return access


def shown_on(device: str) -> GpuMemory:
    blocks: Any = SimpleNamespace(device=torch.device(device), untyped_storage=Storage)
    return gpu_memory.shown(blocks)


@pytest.mark.usefixtures("gpus")
def test_what_is_shown_travels_in_a_welcome_and_is_opened_with_the_same_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def new_shared_cuda(*fields: Any) -> torch.UntypedStorage:
        asked.append(fields)
        raise RuntimeError("there is no GPU")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", new_shared_cuda)
    memory = shown_on("cuda:1")
    assert memory.gpu == "GPU-b"
    welcome = Welcome(1, 2, "kernel", 8, memory)
    assert FROM_POOL(encode(welcome)) == welcome
    with pytest.raises(ConfigError, match=r"CUDA does not open its memory .there is no GPU"):
        gpu_memory.opened(memory, "cuda")
    # As torch.multiprocessing does it, but on the own device, and waiting for no event.
    assert asked == [(0, b"handle", 4096, 512, b"counter", 7, b"", False)]


def test_a_gpu_that_is_not_seen_or_out_of_reach_is_told(
    gpus: dict[tuple[int, int], bool],
) -> None:
    with pytest.raises(ConfigError, match="GPU-z, which this process does not see"):
        gpu_memory.opened(GpuMemory("GPU-z", b"", 0, 0, b"", 0), "cuda:0")
    with pytest.raises(ConfigError, match="cuda:1 has no access to the memory of cuda:0"):
        gpu_memory.opened(shown_on("cuda:0"), "cuda:1")
    assert gpu_memory.unreachable(1, 1) == gpu_memory.unreachable(0, 1) == ""


def test_fields_are_in_the_order_of_pytorchs_own_handle() -> None:
    """Private to PyTorch, so it may change: its own way of sending a tensor is looked at."""
    names = reductions.rebuild_cuda_tensor.__code__.co_varnames
    start = names.index("storage_device")
    wanted = ["storage_device", "storage_handle", "storage_size_bytes", "storage_offset_bytes"]
    counted = ["requires_grad", "ref_counter_handle", "ref_counter_offset", "event_handle"]
    assert list(names[start : start + 9]) == [*wanted, *counted, "event_sync_required"]
