"""Contract of local backends: packed sequences in chunks, exact against float64.

Each keeps the rows of sequences apart, sees earlier blocks and the chunk itself causally, and
never uses memory that no key was written to. Those with a fingerprint give the same bits however
the rows are cut into chunks and whatever else is in the plan.
"""

import math
import random
from dataclasses import dataclass, field, replace

import oracle
import pytest
import torch
from contexts import DTYPES, KV_DTYPES
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tolerance import TOLERANCE, out_tolerance
from torch import Tensor

from engine.attention import BACKENDS
from engine.attention.local import LocalBackend
from engine.attention.stored import narrow, widen
from engine.core import BlockLayout, BlockRef, ModelShape, Plan, Span
from engine.memory import POOLS

REGISTERED = [name for name in BACKENDS.names() if issubclass(BACKENDS.load(name), LocalBackend)]
LOCAL = [name for name in REGISTERED if name not in ("flash", "tiered")]
"""flash needs a CUDA GPU, and tiered two memories: see test_flash.py, test_tiers.py"""
SAME_BITS = [name for name in LOCAL if name != "sdpa"]
QUICK = [name for name in LOCAL if name != "triton"]
FEW = settings(
    max_examples=max(1, settings.default.max_examples // 8),
    phases=[phase for phase in settings.default.phases if phase != Phase.explain],
)
"""for Triton's interpreter, in which a program takes milliseconds, and longer when it is traced"""
Rows = dict[int, list[tuple[Tensor, Tensor]]]
"""sequence -> for each layer (out, lse) of all its rows"""


@dataclass
class Work:
    """Sequences with their queries, keys and values, and the chunks they come in."""

    layout: BlockLayout
    group: int
    chunks: dict[int, list[int]]
    """sequence -> rows of its chunks"""
    seed: int
    size: float = 1.0
    pool: str = "reference"
    shape: ModelShape = field(init=False)

    def __post_init__(self) -> None:
        self.shape = ModelShape(
            num_layers=self.layout.layers,
            num_heads=self.layout.kv_heads * self.group,
            num_kv_heads=self.layout.kv_heads,
            head_dim=self.layout.head_dim,
            vocab_size=1,
            max_positions=10_000,
        )

    def tensors(self, sequence: int, layer: int) -> list[Tensor]:
        """Queries, keys and values of all its positions."""
        generator = torch.Generator().manual_seed(10_000 * self.seed + 10 * sequence + layer)
        rows, heads = sum(self.chunks[sequence]), self.shape.num_kv_heads
        return [
            (self.size * torch.randn(rows, n, self.layout.head_dim, generator=generator)).to(
                DTYPES[self.layout.query_dtype]
            )
            for n in (self.shape.num_heads, heads, heads)
        ]

    def backend(self, name: str) -> LocalBackend:
        """Over a pool in which every number is NaN."""
        num_blocks = sum(self.layout.blocks_for(sum(chunks)) for chunks in self.chunks.values())
        kind = POOLS.load(self.pool)
        pool = kind(kind.Config(), layout=self.layout, num_blocks=max(1, num_blocks))
        for block in range(pool.num_blocks):
            pool.write(block, 0, b"\xff" * self.layout.block_bytes)
        cls = BACKENDS.load(name)
        backend = cls(cls.Config(), shape=self.shape, layout=self.layout, pool=pool)
        assert isinstance(backend, LocalBackend)
        return backend

    def run(self, name: str) -> Rows:
        """Round by round: one chunk of every sequence that has one left, packed."""
        backend, tables = self.backend(name), self.tables()
        done = dict.fromkeys(self.chunks, 0)
        rows: Rows = {s: [(torch.empty(0), torch.empty(0))] * self.layout.layers for s in tables}
        for step in range(max(map(len, self.chunks.values()))):
            spans: list[Span] = []
            start = 0
            for sequence, chunks in self.chunks.items():
                if step < len(chunks):
                    first, count = done[sequence], chunks[step]
                    table = tables[sequence][: self.layout.blocks_for(first + count)]
                    spans.append(Span(sequence, start, count, first, table, 0))
                    start += count
                    done[sequence] += count
            backend.begin(Plan(step, (0,) * start, tuple(spans)))
            for layer in range(self.layout.layers):
                q, k, v = (torch.cat(parts) for parts in self._packed(spans, layer))
                backend.write(k, v, layer)
                partial = backend.finish(backend.start(q, layer))
                assert partial.out_THD.dtype == partial.lse_TH.dtype == torch.float32
                assert partial.out_THD.is_contiguous()
                for span in spans:
                    at = slice(span.row_start, span.row_start + span.num_rows)
                    out, lse = rows[span.sequence][layer]
                    rows[span.sequence][layer] = (
                        torch.cat([out, partial.out_THD[at]]) if len(out) else partial.out_THD[at],
                        torch.cat([lse, partial.lse_TH[at]]) if len(lse) else partial.lse_TH[at],
                    )
            assert backend.end() == frozenset()
        return rows

    def tables(self) -> dict[int, tuple[BlockRef, ...]]:
        """Scattered blocks for each sequence."""
        counts = {s: self.layout.blocks_for(sum(chunks)) for s, chunks in self.chunks.items()}
        order = list(range(sum(counts.values())))
        random.Random(self.seed).shuffle(order)
        return {s: tuple(BlockRef(0, order.pop()) for _ in range(n)) for s, n in counts.items()}

    def _packed(self, spans: list[Span], layer: int) -> list[list[Tensor]]:
        parts = []
        for span in spans:
            at = slice(span.first_position, span.first_position + span.num_rows)
            parts.append([x[at] for x in self.tensors(span.sequence, layer)])
        return [list(part) for part in zip(*parts, strict=True)]


@st.composite
def works(draw: st.DrawFn) -> Work:
    layout = BlockLayout(
        layers=draw(st.integers(1, 2), label="layers"),
        kv_heads=draw(st.integers(1, 2), label="kv_heads"),
        head_dim=draw(st.sampled_from([8, 16, 5, 64]), label="head_dim"),
        tokens=draw(st.sampled_from([4, 1, 16, 5]), label="tokens"),
        **draw(KV_DTYPES, label="dtypes"),
    )
    short = st.lists(st.integers(1, 7), min_size=1, max_size=4)
    long = st.tuples(st.integers(1, 3), st.integers(31, 35)).map(list)  # segments end at 32 rows
    drawn = draw(st.lists(short, min_size=1, max_size=3) | long.map(lambda one: [one]), "chunks")
    return Work(
        layout,
        group=draw(st.sampled_from([1, 2, 3]), label="group"),
        chunks=dict(enumerate(drawn)),
        seed=draw(st.integers(0, 999), label="seed"),
        size=draw(st.sampled_from([1.0, 1e-3, 30.0]), label="size"),
    )


def same_bits(a: Rows, b: Rows, sequence: int) -> bool:
    return all(
        torch.equal(x.view(torch.int32), y.view(torch.int32))
        for one, other in zip(a[sequence], b[sequence], strict=True)
        for x, y in zip(one, other, strict=True)
    )


def test_every_local_backend_is_listed() -> None:
    assert REGISTERED == ["flash", "native", "numpy", "reference", "sdpa", "tiered", "triton"]
    # Who claims equal bits does so by a fingerprint.
    work = Work(BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="float32"), 1, {}, 0)
    assert [name for name in LOCAL if work.backend(name).fingerprint] == SAME_BITS


@pytest.mark.parametrize("name", QUICK)
@given(work=works())
def test_each_row_is_attention_over_its_own_earlier_keys(name: str, work: Work) -> None:
    check_rows(name, work)


@FEW
@given(work=works())
def test_each_row_of_triton_is_attention_over_its_own_earlier_keys(work: Work) -> None:
    check_rows("triton", work)


@pytest.mark.parametrize("name", LOCAL)
def test_over_a_pool_on_a_device_the_bits_are_the_same(name: str) -> None:
    layout = BlockLayout(layers=2, kv_heads=2, head_dim=8, tokens=4, dtype="bfloat16")
    work = Work(layout, 2, {0: [5, 1, 1], 1: [3, 4]}, seed=7)
    there = replace(work, pool="device").run(name)
    assert all(same_bits(work.run(name), there, sequence) for sequence in work.chunks)


def check_rows(name: str, work: Work) -> None:
    """Each row is attention over the keys of its sequence up to itself, by the tolerances."""
    rows = work.run(name)
    for sequence, chunks in work.chunks.items():
        causal = torch.ones(sum(chunks), sum(chunks), dtype=torch.bool).tril()
        for layer, (got_out, got_lse) in enumerate(rows[sequence]):
            q, k, v = work.tensors(sequence, layer)
            if work.layout.is_scaled:  # exact over what is stored; see test_stored.py
                k, v = (widen(*narrow(x, work.layout.dtype)) for x in (k, v))
            scale = work.layout.head_dim**-0.5
            out, lse = oracle.attention(q, k, v, scale, causal)
            norms = [x.double().norm(dim=-1).max().item() for x in (q, k)]
            dtype, largest = work.layout.dtype, math.prod(norms) * scale
            bound = out_tolerance(dtype, work.backend(name).fingerprint, largest)
            assert (got_lse - lse).abs().max().item() <= TOLERANCE[dtype] * (1 + largest)
            assert (got_out - out).abs().max().item() <= bound * v.double().abs().max().item()


@pytest.mark.parametrize("name", [name for name in SAME_BITS if name in QUICK])
@given(work=works(), data=st.data())
def test_neither_the_chunks_nor_the_company_change_a_bit(
    name: str, work: Work, data: st.DataObject
) -> None:
    check_bits(name, work, data)


@FEW
@given(work=works(), data=st.data())
def test_neither_the_chunks_nor_the_company_change_a_bit_of_triton(
    work: Work, data: st.DataObject
) -> None:
    check_bits("triton", work, data)


def check_bits(name: str, work: Work, data: st.DataObject) -> None:
    """One sequence has the same bits in other chunks and alone."""
    rows = work.run(name)
    sequence = data.draw(st.sampled_from(sorted(work.chunks)), label="sequence")
    total = sum(work.chunks[sequence])
    cuts = data.draw(st.sets(st.integers(1, total - 1), max_size=4) if total > 1 else st.just(()))
    ends = [*sorted(cuts), total]
    chunks = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    alone = Work(work.layout, work.group, {sequence: chunks}, work.seed, work.size)
    assert same_bits(alone.run(name), rows, sequence)


@pytest.mark.parametrize("name", LOCAL)
def test_an_unfinished_step_may_be_begun_again(name: str) -> None:
    """As after a poisoned step: the same rows are written and attended once more."""
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="float32")
    work = Work(layout, 2, {0: [9]}, seed=1)
    backend, (table,) = work.backend(name), work.tables().values()
    q, k, v = work.tensors(0, 0)
    plan = Plan(1, (0,) * 9, (Span(0, 0, 9, 0, table, 0),))
    backend.begin(plan)
    backend.write(torch.zeros_like(k), torch.zeros_like(v), 0)
    backend.start(q, 0)
    backend.begin(plan)
    backend.write(k, v, 0)
    partial = backend.finish(backend.start(q, 0))
    assert torch.equal(partial.out_THD, work.run(name)[0][0][0])
