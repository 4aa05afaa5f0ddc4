"""A pool whose heads lie with their ranks: whole blocks go in and out, each part has its own."""

from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core import BlockLayout
from engine.memory.parted import PartedPool
from engine.model.shard import deal
from engine.team import Team

NUM_BLOCKS = 3
DTYPES = st.sampled_from(["float32", "bfloat16", "int8"])


def ranges(kv_heads: int, ranks: int) -> list[range]:
    """As ranks have them: their own, or one that neighbours have, too (see ``Shard``)."""
    if kv_heads >= ranks:
        return deal(kv_heads, ranks)
    heads = [head for head, some in enumerate(deal(ranks, kv_heads)) for _ in some]
    return [range(head, head + 1) for head in heads]


@st.composite
def pools(draw: st.DrawFn) -> PartedPool:
    kv_heads, ranks = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    layout = BlockLayout(
        layers=3, kv_heads=kv_heads, head_dim=4, tokens=2, dtype=draw(DTYPES), queries="float32"
    )
    parts = [(heads, "cpu") for heads in ranges(kv_heads, ranks)]
    return PartedPool(layout=layout, num_blocks=NUM_BLOCKS, parts=parts)


@given(pools(), st.data())
def test_whole_blocks_go_in_and_out(pool: PartedPool, data: st.DataObject) -> None:
    size = pool.layout.block_bytes
    expected = [bytearray(size) for _ in range(NUM_BLOCKS)]
    for _ in range(data.draw(st.integers(1, 6), label="writes")):
        block = data.draw(st.integers(0, NUM_BLOCKS - 1), label="block")
        start = data.draw(st.integers(0, size), label="start")
        stop = data.draw(st.integers(start, size), label="stop")
        body = data.draw(st.randoms(use_true_random=False), label="body").randbytes(stop - start)
        pool.write(block, start, memoryview(body))
        expected[block][start:stop] = body
        assert bytes(pool.read(block, start, stop)) == body
    assert [bytes(pool.read(block)) for block in range(NUM_BLOCKS)] == expected
    rows = np.frombuffer(expected[0], np.uint8)
    rows_LKB = rows.reshape(pool.layout.layers, pool.layout.kv_heads, pool.layout.head_bytes)
    for heads, part in pool.parts:  # all that have a head have the same of it
        assert part.layout == replace(pool.layout, kv_heads=len(heads))
        assert bytes(part.read(0)) == rows_LKB[:, heads.start : heads.stop].tobytes()
    pool.close()


def make() -> PartedPool:
    layout = BlockLayout(layers=2, kv_heads=2, head_dim=4, tokens=2, dtype="float32")
    return PartedPool(layout=layout, num_blocks=2, parts=[(range(1), "cpu"), (range(1, 2), "cpu")])


def test_it_is_a_pool_of_no_region_with_generations() -> None:
    pool = make()
    assert pool.region is None
    assert pool.device == "cpu"
    pool.bump(1)
    assert [pool.generation(block) for block in range(2)] == [0, 1]
    assert pool.read(0).readonly
    assert pool.block_address(1) - pool.block_address(0) == pool.layout.block_bytes
    for act in (lambda: pool.read(2), lambda: pool.write(-1, 0, b"x")):
        with pytest.raises(IndexError, match="of a pool of 2"):
            act()
    pool.close()
    pool.close()


def test_a_rank_is_shown_the_memory_itself() -> None:
    pool = make()
    ours, theirs = Pipe()
    Team([ours], -1).show(pool.shown)
    seen: torch.Tensor = theirs.recv().view(2, -1)
    pool.write(1, 0, bytes(range(pool.layout.block_bytes)))
    _, part = pool.parts[1]
    assert bytes(seen[1].numpy()) == bytes(part.read(1))
    seen[0] = 7
    assert set(bytes(part.read(0))) == {7}
    pool.close()
