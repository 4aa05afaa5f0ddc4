"""A device's pool that others may map: what they see of it, and that they only see it."""

import mmap
import os

import numpy as np
import pytest

from engine.core import BlockLayout
from engine.memory import generations
from engine.memory.base import header_bytes, region_bytes
from engine.memory.device import DevicePool

LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="float32")


@pytest.fixture
def pool():
    config = DevicePool.Config(device="cpu", mapped=True)
    made = DevicePool(config, layout=LAYOUT, num_blocks=4)
    yield made
    made.close()


def test_a_reader_sees_generations_and_behind_them_blocks(pool):
    reader = memoryview(mmap.mmap(pool.fd, 0, prot=mmap.PROT_READ))
    assert len(reader) == region_bytes(LAYOUT, 4)
    watched = generations.Generations(reader, 4, atomic=True)
    pool.bump(3)
    pool.bytes_PB[2] = 7
    pool.write(1, 5, b"abc")
    assert [watched.load(block) for block in range(4)] == [0, 0, 0, 1]
    blocks = np.frombuffer(reader, np.uint8)[header_bytes(4) :].reshape(4, -1)
    assert blocks[1, 5:8].tobytes() == b"abc"
    assert (blocks[2] == 7).all()
    assert pool.block_address(2) == pool.bytes_PB[2].data_ptr()
    assert pool.region is None, "its own kernels read the tensor"


def test_nobody_else_can_write_or_cut_it(pool):
    with pytest.raises(PermissionError):
        mmap.mmap(pool.fd, 0)
    reopened = os.open(f"/proc/self/fd/{pool.fd}", os.O_RDWR)
    try:
        for attempt in (lambda: os.pwrite(reopened, b"x", 0), lambda: os.ftruncate(reopened, 1)):
            with pytest.raises(PermissionError):
                attempt()
    finally:
        os.close(reopened)


def test_close_gives_the_descriptors_back():
    before = len(os.listdir("/proc/self/fd"))
    config = DevicePool.Config(device="cpu", mapped=True)
    made = DevicePool(config, layout=LAYOUT, num_blocks=4)
    made.close()
    made.close()
    assert made.fd is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_is_not_mapped_shows_nothing():
    made = DevicePool(DevicePool.Config(device="cpu"), layout=LAYOUT, num_blocks=4)
    assert (made.fd, made.visible, made.gpu) == (None, None, None)
