"""Keys and values as rBlocks hold them: plain, or as 8 bits with a scale for each token and head.

A row ``x`` [D] of a key or value becomes items and a float32 scale, with L the largest item:

    top = max |x|,  scale = top / L,  items = round(x * (L / top))        x is about items * scale

A row below 2^-100 is zeros with scale 0. One that holds a NaN or an infinity has such a scale, and
any items. All others have the same bits whatever backend writes them (``narrow`` is the plainest),
so it does not show who wrote a block.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from engine.core import BlockLayout

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}
LARGEST = {"int8": 127.0, "fp8": 448.0}
SMALLEST_TOP = 2.0**-100
"""L divided by any smaller one may be infinite"""


def narrow(x: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Items of that 8-bit dtype [..., D], and their scales [...]."""
    x = x.float()
    top = x.abs().amax(-1)
    largest = torch.full_like(top, LARGEST[dtype])  # dividing by a number need not round as once
    tiny = top < SMALLEST_TOP  # False for NaN
    scaled = x * torch.where(tiny, 0.0, largest / top)[..., None]
    items = scaled.round().to(torch.int8) if dtype == "int8" else scaled.to(DTYPES[dtype])
    return items, torch.where(tiny, 0.0, top / largest)


def widen(items: Tensor, scales: Tensor) -> Tensor:
    """Float32 of what ``narrow`` made."""
    return items.float() * scales[..., None]


def heads_at(
    memory: Tensor, layout: BlockLayout, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """Items ``[*shape, 2, C, D]`` and scales ``[*shape, 2, C]`` of heads in a memory of bytes.

    ``strides``: bytes from one head to the next, for each dimension of ``shape``; the first head
    begins where the memory does.
    """

    def view(dtype: torch.dtype, offset: int, *inner: int) -> Tensor:
        items = memory[offset:].view(dtype)
        outer = tuple(stride // dtype.itemsize for stride in strides)
        return items.as_strided(
            (*shape, *inner), (*outer, *torch.empty(inner, device="meta").stride())
        )

    items = view(DTYPES[layout.dtype], 0, 2, layout.tokens, layout.head_dim)
    if not layout.is_scaled:
        return items, None
    return items, view(torch.float32, layout.scales_offset, 2, layout.tokens)


def blocks_of(memory: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor | None]:
    """Items ``[P, L, K, 2, C, D]`` and scales ``[P, L, K, 2, C]`` of a pool's blocks, in bytes."""
    shape = (len(memory) // layout.block_bytes, layout.layers, layout.kv_heads)
    strides = (layout.block_bytes, layout.layer_bytes, layout.head_bytes)
    return heads_at(memory[layout.offset_bytes :], layout, shape, strides)


def keys_and_values(address: int, layout: BlockLayout, layer: int) -> tuple[Tensor, Tensor]:
    """Float32 copies of the keys and values [K, C, D] of one rBlock's layer."""
    start, num_bytes = address + layer * layout.layer_bytes, layout.kv_heads * layout.head_bytes
    memory = torch.frombuffer((ctypes.c_uint8 * num_bytes).from_address(start), dtype=torch.uint8)
    items, scales = heads_at(memory, layout, (layout.kv_heads,), (layout.head_bytes,))
    copy_K2CD = items.to(torch.float32, copy=True) if scales is None else widen(items, scales)
    return copy_K2CD[:, 0], copy_K2CD[:, 1]


class Stored:
    """A pool's keys and values, of the heads that ``layout`` names."""

    def __init__(self, layout: BlockLayout, bytes_PB: Tensor) -> None:
        self._dtype = layout.dtype
        self.items_PLK2CD, self.scales_PLK2C = blocks_of(bytes_PB.view(-1), layout)

    def write(
        self, block_T: Tensor, slot_T: Tensor, layer: int, k_TKD: Tensor, v_TKD: Tensor
    ) -> None:
        """Row t goes to that slot of that block."""
        for part, x_TKD in enumerate((k_TKD, v_TKD)):
            to = self.items_PLK2CD
            items = x_TKD.to(to.device)
            if self.scales_PLK2C is not None:
                items, scales = narrow(items, self._dtype)
                self.scales_PLK2C[block_T, layer, :, part, slot_T] = scales
                # Torch puts no 8-bit floats at places of an index.
                items, to = items.view(torch.int8), to.view(torch.int8)
            to[block_T, layer, :, part, slot_T] = items
