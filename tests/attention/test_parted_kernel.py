"""Heads on several devices answer with the bits of one that has them all, whoever asks."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.backend_kernel import BackendKernel, Make
from engine.attention.kernel_backend import NativeBackend
from engine.attention.local import LocalBackend
from engine.attention.parted_kernel import PartedKernel
from engine.attention.tiered import TieredBackend
from engine.attention.tree import Piece, Segment
from engine.attention.triton.backend import TritonBackend, why_not
from engine.core import BlockLayout, ModelShape
from engine.memory import POOLS
from engine.memory.base import MemoryPool
from engine.memory.device import DevicePool
from engine.memory.parted import PartedPool

KV_HEADS, GROUP, DIM, TOKENS = 4, 2, 16, 8
LAYOUT = BlockLayout(layers=2, kv_heads=KV_HEADS, head_dim=DIM, tokens=TOKENS, dtype="float32")
SHAPE = ModelShape(
    num_layers=2,
    num_heads=KV_HEADS * GROUP,
    num_kv_heads=KV_HEADS,
    head_dim=DIM,
    vocab_size=10,
    max_positions=64,
)
PARTS = [
    [range(2), range(2, 4)],
    [range(2), range(2, 3), range(3, 4)],
    [range(1), range(1), range(1, 2), range(2, 4)],
]


def over(backend: Any, pool: MemoryPool) -> Make:
    def make(heads: int, layout: BlockLayout) -> LocalBackend:
        shape = replace(SHAPE, num_heads=heads, num_kv_heads=layout.kv_heads)
        made: LocalBackend = backend(backend.Config(), shape=shape, layout=layout, pool=pool)
        return made

    return make


def parted(kind: str, parts: list[range]) -> PartedPool:
    """Of four blocks; where it is tiered, the last two lie in host memory."""
    cls: Any = POOLS.load(kind)
    pools = [
        cls(cls.Config(device="cpu"), layout=replace(LAYOUT, kv_heads=len(heads)), num_blocks=4)
        for heads in parts
    ]
    return PartedPool(layout=LAYOUT, num_blocks=4, parts=list(zip(parts, pools, strict=True)))


def attend(kernel: Any, pool: MemoryPool, layout: BlockLayout, q_THD: Any) -> Any:
    """Two rows over three leaves of the pool, then over three others; of all layers."""
    found = []
    for blocks in ((3, 0, 2), (1, 2, 0)):
        address = [pool.block_address(block) + layout.offset_bytes for block in blocks]
        piece = Piece.of([Segment(0, 2, 2 * TOKENS + 3, (0, 1, 2), tuple(address))])
        for layer in range(LAYOUT.layers):
            out_RHD = np.empty((piece.num_node_rows, *q_THD.shape[1:]), np.float32)
            lse_RH = np.empty(out_RHD.shape[:2], np.float32)
            kernel.attend(piece, q_THD, layout, layer, DIM**-0.5, out_RHD, lse_RH)
            found += [out_RHD, lse_RH]
    return found


@pytest.mark.parametrize(
    ("kind", "backend", "of_one"),
    [
        ("device", NativeBackend, NativeBackend),
        ("tiered", TieredBackend, NativeBackend),
        pytest.param(
            *("device", TritonBackend, TritonBackend),
            marks=pytest.mark.skipif(bool(why_not()), reason=why_not()),
        ),
    ],
)
@given(st.sampled_from(PARTS), st.integers(0, KV_HEADS - 1), st.data())
def test_any_heads_have_the_bits_of_one_device(
    kind: str, backend: Any, of_one: Any, parts: list[range], first: int, data: st.DataObject
) -> None:
    whole = DevicePool(DevicePool.Config(device="cpu"), layout=LAYOUT, num_blocks=4)
    pool = parted(kind, parts)
    generator = torch.Generator().manual_seed(5)
    for block in range(4):
        numbers = torch.randn(LAYOUT.block_bytes // 4, generator=generator).numpy().tobytes()
        whole.write(block, 0, numbers)
        pool.write(block, 0, numbers)
    last = data.draw(st.integers(first + 1, KV_HEADS), label="last")
    group = data.draw(st.integers(1, GROUP), label="query heads that have each KV head")
    wanted = range(first, last)
    layout = LAYOUT if len(wanted) == KV_HEADS else LAYOUT.part(wanted)
    q_THD = torch.randn(2, group * len(wanted), DIM, generator=generator).numpy()
    kernel = PartedKernel(partial(over, backend), SHAPE.num_heads, pool)
    truth = BackendKernel(over(of_one, whole), SHAPE.num_heads, LAYOUT)
    found, right = attend(kernel, pool, layout, q_THD), attend(truth, whole, layout, q_THD)
    assert all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))
    assert kernel.fingerprint == truth.fingerprint
