"""Protects what every MemoryPool promises: its geometry, its generations, its end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import BlockLayout
from engine.memory import POOLS
from engine.memory.base import PAGE_BYTES, MemoryPool, header_bytes, region_bytes

LAYOUT = BlockLayout(layers=2, kv_heads=1, head_dim=8, tokens=4, dtype="float32")


def make(name: str, num_blocks: int = 5) -> MemoryPool:
    pool = POOLS.load(name)
    return pool(pool.Config(), layout=LAYOUT, num_blocks=num_blocks)


STARTS = st.integers(0, LAYOUT.block_bytes - 64)
IN_HOST_MEMORY = ["paged", "reference"]


@pytest.fixture(params=POOLS.names())
def pool(request):
    made = make(request.param)
    yield made
    made.close()


@pytest.fixture(params=IN_HOST_MEMORY)
def region_pool(request):
    made = make(request.param)
    yield made
    made.close()


def test_where_there_is_no_region_there_is_a_tensor():
    regions = {name: made.region for name in POOLS.names() if (made := make(name))}
    assert [name for name, region in regions.items() if region is not None] == IN_HOST_MEMORY


def test_region_is_header_then_blocks_from_a_page_boundary(region_pool):
    pool = region_pool
    assert len(pool.region) == region_bytes(LAYOUT, 5)
    assert pool.address % PAGE_BYTES == 0
    assert pool.block_address(0) == pool.address + header_bytes(5)
    assert not pool.region.readonly


def test_a_new_pool_is_zero(pool):
    for block in range(5):
        assert bytes(pool.read(block)) == bytes(LAYOUT.block_bytes)
        assert pool.generation(block) == 0


def test_what_was_read_cannot_be_written(pool):
    assert pool.read(1).readonly


def test_blocks_lie_apart(pool):
    addresses = sorted(pool.block_address(block) for block in range(5))
    for one, next_one in zip(addresses, addresses[1:], strict=False):
        assert next_one - one >= LAYOUT.block_bytes


@pytest.mark.parametrize("name", POOLS.names())
@given(
    data=st.lists(
        st.tuples(
            st.integers(0, 4), st.integers(0, LAYOUT.block_bytes - 64), st.binary(max_size=64)
        )
    )
)
def test_bytes_of_a_block_stay_in_it(name, data):
    pool, expected = make(name), [bytearray(LAYOUT.block_bytes) for _ in range(5)]
    for block, start, content in data:
        pool.write(block, start, memoryview(content))
        expected[block][start : start + len(content)] = content
        assert bytes(pool.read(block, start, start + len(content))) == content
    assert [bytes(pool.read(block)) for block in range(5)] == expected
    assert [pool.generation(block) for block in range(5)] == [0] * 5
    pool.close()


@pytest.mark.parametrize("name", POOLS.names())
@given(bumps=st.lists(st.integers(0, 4)))
def test_bump_grows_one_generation_only(name, bumps):
    pool = make(name)
    for block in bumps:
        pool.bump(block)
    assert [pool.generation(block) for block in range(5)] == [bumps.count(b) for b in range(5)]
    assert not any(any(pool.read(block)) for block in range(5))
    pool.close()


def test_generations_lie_in_the_header_in_order(region_pool):
    pool = region_pool
    pool.bump(3)
    assert pool.region[: 5 * 8].cast("Q").tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("block", [-1, 5])
@pytest.mark.parametrize("method", ["read", "write", "generation", "bump"])
def test_a_block_outside_the_pool_is_refused(pool, method, block):
    with pytest.raises(IndexError):
        getattr(pool, method)(block, *((0, b"x") if method == "write" else ()))


def test_close_twice_and_with_views_still_there(pool):
    view = pool.read(0) if pool.region is None else np.frombuffer(pool.region, np.uint8)
    pool.close()
    pool.close()
    assert view[0] == 0
    with pytest.raises(IndexError):
        pool.generation(0)
