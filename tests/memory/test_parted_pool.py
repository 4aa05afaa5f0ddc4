"""A pool whose heads lie with their ranks: whole blocks go in and out, each part has its own."""

import pickle
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import BlockLayout
from engine.memory import POOLS
from engine.memory.base import MemoryPool
from engine.memory.parted import PartedPool
from engine.model.shard import deal
from engine.team import Team

NUM_BLOCKS = 3
KINDS = ["device", "tiered"]
"""the last block of three lies in host memory where it is tiered, and of two"""
DTYPES = st.sampled_from(["float32", "bfloat16", "int8"])


def ranges(kv_heads: int, ranks: int) -> list[range]:
    """As ranks have them: their own, or one that neighbours have, too (see ``Shard``)."""
    if kv_heads >= ranks:
        return deal(kv_heads, ranks)
    heads = [head for head, some in enumerate(deal(ranks, kv_heads)) for _ in some]
    return [range(head, head + 1) for head in heads]


def part_of(
    kind: str, layout: BlockLayout, heads: range, num_blocks: int, **how: Any
) -> MemoryPool:
    cls: Any = POOLS.load(kind)
    own = replace(layout, kv_heads=len(heads))
    pool: MemoryPool = cls(cls.Config(device="cpu"), layout=own, num_blocks=num_blocks, **how)
    return pool


@st.composite
def pools(draw: st.DrawFn) -> PartedPool:
    kv_heads, ranks = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    layout = BlockLayout(
        layers=3, kv_heads=kv_heads, head_dim=4, tokens=2, dtype=draw(DTYPES), queries="float32"
    )
    kind = draw(st.sampled_from(KINDS))
    parts = [(heads, part_of(kind, layout, heads, NUM_BLOCKS)) for heads in ranges(kv_heads, ranks)]
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


LAYOUT = BlockLayout(layers=2, kv_heads=2, head_dim=4, tokens=2, dtype="float32")


def make(kind: str, **how: Any) -> PartedPool:
    heads = ranges(2, 2)
    parts = [(one, part_of(kind, LAYOUT, one, 2, **how)) for one in heads]
    return PartedPool(layout=LAYOUT, num_blocks=2, parts=parts)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_pool_of_no_region_with_generations(kind: str) -> None:
    pool = make(kind)
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_is_shown_the_memory_itself(kind: str) -> None:
    """Of both tiers, where there are two."""
    pool = make(kind, shared=True)
    ours, theirs = Pipe()
    Team([ours], -1).show([part.share() for _, part in pool.parts])
    heads, part = pool.parts[1]
    seen = part_of(kind, LAYOUT, heads, 2, shown=theirs.recv())
    pool.write(0, 0, bytes(range(LAYOUT.block_bytes)))
    pool.write(1, 0, bytes(reversed(range(LAYOUT.block_bytes))))
    blocks = [bytes(part.read(block)) for block in range(2)]
    assert [bytes(seen.read(block)) for block in range(2)] == blocks
    for block in range(2):
        seen.write(block, 0, bytes([7 + block]))
        assert part.read(block)[0] == 7 + block
    seen.close()
    pool.close()


def test_a_rank_without_host_memory_is_shown_an_empty_tier() -> None:
    pool = make("tiered", shared=True, host_blocks=0)
    shown = [pickle.loads(pickle.dumps(part.share())) for _, part in pool.parts]
    assert [[len(tier) > 0 for tier in one] for one in shown] == [[True, False]] * 2
    seen = part_of("tiered", LAYOUT, range(1), 2, host_blocks=0, shown=shown[0])
    seen.write(1, 0, b"x")
    assert pool.read(1)[0] == ord("x")
