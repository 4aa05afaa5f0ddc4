"""A pool in two memories: the cut of a piece is exact, and so is attention over both parts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_backends import QUICK, Work, check_rows, same_bits, works

from engine.attention import host_costs
from engine.attention.host_costs import HostCosts
from engine.attention.tiered import TieredBackend
from engine.attention.tiers import Parts, rows_by_address
from engine.attention.tree import Piece, Segment
from engine.attention.triton.backend import why_not
from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory import POOLS

LAYOUT = BlockLayout(layers=2, kv_heads=2, head_dim=8, tokens=4, dtype="bfloat16")
COPIES = 1 << 20
"""what a copy's address is more than its leaf's, in these tests"""


@given(
    leaves=st.lists(st.sets(st.integers(0, 40)).map(sorted), min_size=1, max_size=4),
    near=st.sets(st.integers(0, 40)),
    copied=st.sets(st.integers(0, 40)),
    data=st.data(),
)
def test_parts_merge_to_the_nodes_of_the_whole(
    leaves: list[list[int]], near: set[int], copied: set[int], data: st.DataObject
) -> None:
    """A leaf's address is its own number here; sets of leaves stand for node rows."""
    num_rows = [data.draw(st.integers(1, 3), label="rows") for _ in leaves]
    segments = [
        Segment(sum(num_rows[:n]), num_rows[n], 100, tuple(own), tuple(own))
        for n, own in enumerate(leaves)
    ]
    whole = Piece.of(segments)
    copies = {leaf: leaf + COPIES for leaf in copied - near}
    parts = Parts.of(whole, near.__contains__, copies)

    rows: list[frozenset[int]] = []
    for part in (parts.near, parts.far):
        for number, nodes in enumerate(part.nodes):
            for node in nodes:
                covered = range(node.index << node.level, (node.index + 1) << node.level)
                rows += [frozenset(covered)] * num_rows[number]
    for left, right, count in parts.program.merges_M3.tolist():
        for n in range(count):
            assert not rows[left + n] & rows[right + n], "a leaf counts twice"
            rows[left + n] |= rows[right + n]
    found = {}
    for at, to, count in parts.program.roots_S3.tolist():
        found |= {to + n: rows[at + n] for n in range(count)}
    want = {}
    for number, nodes in enumerate(whole.nodes):
        first = int(whole.segments_S6[number, 5])
        for index, node in enumerate(nodes):
            covered = range(node.index << node.level, (node.index + 1) << node.level)
            for n in range(num_rows[number]):
                want[first + index * num_rows[number] + n] = frozenset(covered)
    assert found == want

    read = set(parts.near.address.tolist())
    assert read <= near | set(copies.values())
    assert not set(parts.far.address.tolist()) & (near | copied)
    whole.segments_S6[:, 2] += 1
    parts.go_on()
    assert (parts.near.segments_S6[:, 2] == whole.segments_S6[:, 2]).all()
    assert (parts.far.segments_S6[:, 2] == whole.segments_S6[:, 2]).all()
    counted = rows_by_address(whole, range(20))
    assert counted == {
        leaf: n
        for leaf in range(20)
        if (n := sum(num for num, own in zip(num_rows, leaves, strict=True) if leaf in own))
    }


@given(
    rows=st.integers(1, 1000),
    more=st.integers(0, 1000),
    layer_bytes=st.integers(1, 1 << 24),
    seconds=st.lists(st.floats(1e-9, 1.0), max_size=5),
)
def test_who_copies_for_some_queries_copies_for_more(
    rows: int, more: int, layer_bytes: int, seconds: list[float]
) -> None:
    costs = HostCosts()
    for one in seconds:
        costs.learn_work(one, 100)
    assert costs.prefers_copy(rows + more, 16, layer_bytes) >= costs.prefers_copy(
        rows, 16, layer_bytes
    )
    costs.learn_work(1.0, 0)  # nothing was read: nothing is learned
    assert costs.key_s > 0


def test_a_copy_pays_where_its_bytes_cost_less_than_all_queries_work() -> None:
    """1000 bytes take 1 us, and a query over 16 keys 32 ns: 31.25 queries break even."""
    costs = HostCosts(key_s=2e-9, byte_s=1e-9)
    found = {rows: costs.prefers_copy(rows, 16, 1000) for rows in (1, 31, 32, 1000)}
    assert found == {1: False, 31: False, 32: True, 1000: True}


def test_one_slow_step_does_not_decide_alone() -> None:
    costs = HostCosts(key_s=1.0)
    costs.learn_work(300.0, 100)
    assert costs.key_s == pytest.approx(1.2)
    for _ in range(100):
        costs.learn_work(300.0, 100)
    assert costs.key_s == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("copies", [False, True])
@given(work=works())
def test_bits_are_those_of_one_memory_wherever_blocks_lie(copies: bool, work: Work) -> None:
    """Native on both sides; host blocks are read there, or copied first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_costs.HostCosts, "prefers_copy", lambda *_: copies)
        there = replace(work, pool="tiered").run("tiered")
    here = work.run("native")
    assert all(same_bits(here, there, sequence) for sequence in work.chunks)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_device_that_computes_otherwise_is_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton on the device, native on the host: no bits are promised."""
    config = TieredBackend.Config(near="triton")
    monkeypatch.setattr(TieredBackend, "Config", lambda: config)
    layout = replace(LAYOUT, dtype="float32")
    work = Work(layout, 2, {0: [9, 1, 1], 1: [3, 4]}, seed=7, pool="tiered")
    assert not work.backend("tiered").fingerprint
    check_rows("tiered", work)


def test_host_blocks_lie_in_host_memory_and_not_where_copies_go() -> None:
    pool: Any = POOLS.load("tiered")(
        POOLS.load("tiered").Config(device="cpu"), layout=LAYOUT, num_blocks=5, host_blocks=2
    )
    for block in range(5):
        pool.write(block, 0, bytes([block + 1]))
    near, far = pool.tiers
    assert [near.read(block)[0] for block in range(near.num_blocks)] == [1, 2, 3] + 8 * [0]
    assert [far.read(block)[0] for block in range(far.num_blocks)] == [4, 5]
    pool.close()


def test_only_a_step_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers others over the same pool has no room of its own for copies."""
    backend: Any = Work(LAYOUT, 2, {0: [40]}, seed=1, pool="tiered").backend("tiered")
    _, far = backend.pool.tiers
    address = far.block_address(1)
    piece = Piece.of([Segment(0, 1000, 0, (0,), (address,))])
    monkeypatch.setattr(HostCosts, "prefers_copy", lambda *_: True)
    assert backend._worth_copying(piece) == {}
    backend.place(torch.tensor([0]), torch.tensor([0]))
    assert set(backend._worth_copying(piece)) == {address}
    assert backend.costs.byte_s > 0


@pytest.mark.parametrize("name", [*QUICK, "triton"])
def test_who_reads_one_memory_refuses_two(name: str) -> None:
    with pytest.raises(ConfigError, match="use attention.options.local=tiered"):
        Work(LAYOUT, 2, {0: [40]}, seed=1, pool="tiered").backend(name)


def test_tiers_need_two_memories() -> None:
    with pytest.raises(ConfigError, match="use pool.name=tiered"):
        Work(LAYOUT, 2, {0: [40]}, seed=1).backend("tiered")
    with pytest.raises(ConfigError, match="4 blocks of 4 in host memory: none is left"):
        POOLS.load("tiered")(
            POOLS.load("tiered").Config(), layout=LAYOUT, num_blocks=4, host_blocks=4
        )
