"""Protects the shared region: what forked children see, what strangers cannot do, short memory."""

import mmap
import os
import resource

import pytest

from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory import generations, room
from engine.memory.paged import PagedPool
from engine.memory.reference import ReferencePool

LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="float32")


@pytest.fixture
def pool():
    made = PagedPool(PagedPool.Config(prefault=True), layout=LAYOUT, num_blocks=4)
    yield made
    made.close()


def in_child(function) -> int:
    """Exit code of ``function`` in a forked child: 0 unless it raised."""
    child = os.fork()
    if not child:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_parent_and_forked_child_see_each_others_writes_and_generations(pool):
    pool.bump(1)
    pool.block(1)[:3] = b"abc"
    pool.seal_writes()

    def child():
        assert bytes(pool.block(1)[:3]) == b"abc"
        assert pool.generation(1) == 1
        pool.bump(1)
        pool.block(2)[:3] = b"xyz"

    assert in_child(child) == 0
    assert pool.generation(1) == 2
    assert bytes(pool.block(2)[:3]) == b"xyz"


def test_a_reader_maps_the_descriptor_and_watches_generations(pool):
    reader = memoryview(mmap.mmap(pool.fd, 0, prot=mmap.PROT_READ))
    watched = generations.Generations(reader, 4, atomic=pool.has_atomics)
    pool.bump(3)
    assert [watched.load(block) for block in range(4)] == [0, 0, 0, 1]


def test_the_descriptor_cannot_write_nor_be_reopened_to_write_once_sealed(pool):
    if not pool.seal_writes():
        pytest.skip("this kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1)")
    with pytest.raises(PermissionError):
        mmap.mmap(pool.fd, 0)
    reopened = os.open(f"/proc/self/fd/{pool.fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(reopened, 0)
        with pytest.raises(PermissionError):
            os.pwrite(reopened, b"x", 0)
    finally:
        os.close(reopened)
    pool.block(0)[:1] = b"y"


def test_the_region_keeps_its_length(pool):
    reopened = os.open(f"/proc/self/fd/{pool.fd}", os.O_RDWR)
    try:
        for num_bytes in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(reopened, num_bytes)
    finally:
        os.close(reopened)


def test_close_gives_the_descriptors_back(pool):
    before = len(os.listdir("/proc/self/fd"))
    another = PagedPool(PagedPool.Config(), layout=LAYOUT, num_blocks=1)
    another.close()
    assert another.fd is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_compiler_generations_still_count(monkeypatch):
    def no_compiler():
        raise ConfigError("no compiler")

    monkeypatch.setattr(generations, "_atomics", no_compiler)
    pool = PagedPool(PagedPool.Config(), layout=LAYOUT, num_blocks=2)
    assert not pool.has_atomics
    pool.bump(1)
    assert (pool.generation(0), pool.generation(1)) == (0, 1)
    pool.close()


@pytest.mark.parametrize("kind", [PagedPool, ReferencePool])
def test_a_pool_larger_than_memory_names_both_sizes(kind, monkeypatch):
    monkeypatch.setattr(room, "available_bytes", lambda: 5000)
    with pytest.raises(ConfigError, match=r"wants 6,144 bytes and 5,000 bytes .*pool.num_blocks"):
        kind(kind.Config(), layout=LAYOUT, num_blocks=8)


def test_a_limit_of_the_process_is_told_in_one_sentence():
    def child():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        for kind in (PagedPool, ReferencePool):
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ConfigError, match="the kernel refused|this process may not"):
                kind(kind.Config(), layout=LAYOUT, num_blocks=8 << 20)
            assert len(os.listdir("/proc/self/fd")) == before

    assert room.available_bytes() > 3 << 30, "this test needs 3 GiB that it will not touch"
    assert in_child(child) == 0


def test_a_file_size_limit_is_told_in_one_sentence():
    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        with pytest.raises(ConfigError, match="the kernel refused .File too large"):
            PagedPool(PagedPool.Config(), layout=LAYOUT, num_blocks=100)

    assert in_child(child) == 0


def test_the_least_of_kernel_and_cgroup_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    assert room.available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 4 kB\n")
    assert room.available_bytes() == 4096
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert room.available_bytes() == 4096
    (tmp_path / "memory.max").write_text("3000\n")
    assert room.available_bytes() == 2000
