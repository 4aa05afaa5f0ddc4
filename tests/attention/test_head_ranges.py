"""Ranks that share a pool: each writes and attends to its own heads; together they are the whole.

For every local backend; those with a fingerprint give the same bits as one rank alone.
"""

from dataclasses import replace

import pytest
import torch
from contexts import DTYPES
from test_backends import LOCAL
from torch import Tensor

from engine.attention import BACKENDS
from engine.attention.local import LocalBackend
from engine.core import BlockLayout, BlockRef, ModelShape, Plan, Span
from engine.memory.base import header_bytes
from engine.memory.reference import ReferencePool

CASES = [
    (name, dtype)
    for name in LOCAL
    for dtype in ("float32", "bfloat16", "int8")
    if (name, dtype) != ("triton", "float32")  # one takes seconds in Triton's interpreter
]
GROUP, ROWS, FIRST = 4, 9, 13
"""query heads to a KV head; the step's rows, behind so many earlier ones"""
RANKS = {
    "one KV head each": [(range(h * GROUP, h * GROUP + GROUP), range(h, h + 1)) for h in range(3)],
    "uneven": [(range(8), range(2)), (range(8, 12), range(2, 3))],
    "a shared KV head": [
        (range(4), range(1)),
        (range(4, 8), range(1, 2)),
        (range(8, 9), range(2, 3)),
        (range(9, 12), range(2, 3)),
    ],
}


def layout_of(dtype: str) -> BlockLayout:
    queries = dtype if dtype in DTYPES else "bfloat16"
    return BlockLayout(layers=2, kv_heads=3, head_dim=16, tokens=4, dtype=dtype, queries=queries)


def backend_of(name: str, pool: ReferencePool, heads: range, kv_heads: range) -> LocalBackend:
    shape = ModelShape(
        num_layers=pool.layout.layers,
        num_heads=len(heads),
        num_kv_heads=len(kv_heads),
        head_dim=pool.layout.head_dim,
        vocab_size=1,
        max_positions=64,
    )
    cls = BACKENDS.load(name)
    backend = cls(cls.Config(), shape=shape, layout=pool.layout.part(kv_heads), pool=pool)
    assert isinstance(backend, LocalBackend)
    return backend


def run(
    name: str, dtype: str, ranks: list[tuple[range, range]]
) -> tuple[list[tuple[Tensor, Tensor]], bytes]:
    """Each layer's (out, lse) of the step's rows; what is in the pool then."""
    layout = layout_of(dtype)
    pool = ReferencePool(ReferencePool.Config(), layout=layout, num_blocks=8)
    blocks = pool.region[header_bytes(pool.num_blocks) :]
    blocks[:] = b"\xff" * len(blocks)  # every number is NaN
    backends = [backend_of(name, pool, *rank) for rank in ranks]
    table = tuple(BlockRef(0, block) for block in (5, 2, 7, 0, 3, 6))
    found = []
    for first, count in ((0, FIRST), (FIRST, ROWS)):
        span = Span(1, 0, count, first, table[: layout.blocks_for(first + count)], 0)
        for backend in backends:
            backend.begin(Plan(1, (0,) * count, (span,)))
        found = []
        for layer in range(layout.layers):
            random = torch.Generator().manual_seed(100 * first + layer)
            q, k, v = (
                torch.randn(count, heads, 16, generator=random).to(DTYPES[layout.query_dtype])
                for heads in (3 * GROUP, 3, 3)
            )
            partials = []
            for backend, (heads, kv) in zip(backends, ranks, strict=True):
                own_k, own_v = (x[:, kv.start : kv.stop].contiguous() for x in (k, v))
                backend.write(own_k, own_v, layer)
                own_q = q[:, heads.start : heads.stop].contiguous()
                partials.append(backend.finish(backend.start(own_q, layer)))
            out = torch.cat([partial.out_THD for partial in partials], 1)
            found.append((out, torch.cat([partial.lse_TH for partial in partials], 1)))
        for backend in backends:
            backend.end()
    return found, bytes(blocks)


@pytest.mark.parametrize("ranks", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_ranks_together_are_the_whole(
    name: str, dtype: str, ranks: list[tuple[range, range]]
) -> None:
    whole, memory = run(name, dtype, [(range(3 * GROUP), range(3))])
    parts, shared = run(name, dtype, ranks)
    assert shared == memory
    for (out, lse), (part_out, part_lse) in zip(whole, parts, strict=True):
        assert not out.isnan().any()
        if name == "sdpa":
            torch.testing.assert_close(part_out, out)
            torch.testing.assert_close(part_lse, lse)
        else:
            assert torch.equal(part_out, out)
            assert torch.equal(part_lse, lse)


def test_a_part_is_of_the_same_blocks() -> None:
    layout = layout_of("bfloat16")
    part = layout.part(range(1, 3))
    assert part.shape == (2, 2, 2, 4, 16)
    assert (part.block_bytes, part.layer_bytes) == (layout.block_bytes, layout.layer_bytes)
    assert (part.head_bytes, part.offset_bytes) == (256, 256)
    assert layout.part(range(3)) == replace(layout, whole_kv_heads=3)
