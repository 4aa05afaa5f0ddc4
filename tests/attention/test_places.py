"""Where leaves lie, and what is read of them, is what looking at every entry of the table says."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_backends import Work

from engine.attention.places import NOWHERE_YET, KnownPlaces
from engine.attention.reading import Reading
from engine.attention.tree import cover
from engine.attention.ways import keys_of
from engine.core import BlockLayout, BlockRef, Plan, Span

LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=4, tokens=4, dtype="float32")
REFS = st.one_of(
    st.integers(0, 99).map(lambda block: BlockRef(0, block)),
    st.tuples(st.integers(1, 3), st.integers(0, 99), st.integers(1, 4)).map(lambda x: BlockRef(*x)),
)
TABLES = st.lists(REFS, min_size=1, max_size=12).map(tuple)


def address_of(block: int) -> int:
    return (1 << 63) + 1000 * block


def plan_of(tables: Iterable[tuple[int, tuple[BlockRef, ...]]], num_rows: int = 1) -> Plan:
    """Spans of the last rows that the tables have room for."""
    spans: list[Span] = []
    for sequence, table in tables:
        rows = min(num_rows, len(table) * LAYOUT.tokens)
        start = sum(span.num_rows for span in spans)
        first = len(table) * LAYOUT.tokens - rows
        spans.append(Span(sequence, start, rows, first, table, 0))
    return Plan(1, (0,) * sum(span.num_rows for span in spans), tuple(spans))


@st.composite
def changed(draw: st.DrawFn, table: tuple[BlockRef, ...]) -> tuple[BlockRef, ...]:
    """The table after a step: it has grown, a leaf has moved, or it is another one."""
    kind = draw(st.sampled_from(["same", "equal", "grown", "moved", "shorter", "other"]))
    if kind == "same":
        return table
    if kind == "moved":
        at = draw(st.integers(0, len(table) - 1))
        return (*table[:at], draw(REFS), *table[at + 1 :], *draw(st.lists(REFS, max_size=1)))
    if kind == "grown":
        return table + draw(TABLES)
    if kind == "shorter":
        return table[: draw(st.integers(1, len(table)))]
    return draw(TABLES) if kind == "other" else (*table,)


@given(st.data())
def test_places_are_those_of_every_entry(data: st.DataObject) -> None:
    known = KnownPlaces(address_of)
    tables = dict(enumerate(data.draw(st.lists(TABLES, min_size=1, max_size=3))))
    for _ in range(data.draw(st.integers(1, 5), label="steps")):
        present = [s for s in tables if data.draw(st.booleans(), label=f"{s} runs")]
        tables |= {s: data.draw(changed(tables[s])) for s in present}
        plan = plan_of((s, tables[s]) for s in present)
        places = known.of(plan)
        for span, at in zip(plan.spans, places, strict=True):
            own = [(leaf, ref) for leaf, ref in enumerate(span.table) if not ref.loan]
            assert at.table == span.table
            assert at.leaves.tolist() == [leaf for leaf, _ in own]
            assert at.addresses.tolist() == [address_of(ref.block) for _, ref in own]
            lent: dict[int, dict[int, BlockRef]] = {}
            for leaf, ref in enumerate(span.table):
                if ref.loan:
                    lent.setdefault(ref.instance, {})[leaf] = ref
            assert at.lent == lent
            assert all(list(refs) == sorted(refs) for refs in at.lent.values())
        refs = [ref for span in plan.spans for ref in span.table]
        num_lent = sum(ref.loan > 0 for ref in refs)
        own_and_lent = LAYOUT.tokens * (len(refs) - num_lent), LAYOUT.tokens * num_lent
        assert keys_of(plan, places, LAYOUT.tokens) == own_and_lent


def test_only_what_has_grown_is_looked_at() -> None:
    seen: list[int] = []

    def noted(block: int) -> int:
        seen.append(block)
        return block

    table = tuple(BlockRef(0, block) for block in range(1000))
    known = KnownPlaces(noted)
    for length in (990, 990, 995, 1000):
        known.of(plan_of([(7, table[:length])]))
    assert seen == list(range(1000))


@pytest.fixture(scope="module")
def local() -> Any:
    return Work(LAYOUT, group=1, chunks={0: [1]}, seed=0).backend("numpy")


@given(
    tables=st.lists(TABLES, min_size=1, max_size=4),
    num_rows=st.sampled_from([1, 3, 40]),
    near=st.sets(st.integers(0, 99)),
    way=st.sampled_from(["query", "mapped", "copy"]),
)
def test_a_reading_is_what_each_row_may_see_of_every_entry(
    local: Any, tables: list[tuple[BlockRef, ...]], num_rows: int, near: set[int], way: str
) -> None:
    plan = plan_of(enumerate(tables), num_rows)

    def lent_address(sequence: int, ref: BlockRef) -> int:
        assert ref.loan
        return 5 + 100 * ref.block + sequence if way != "query" and ref.block in near else 0

    def address(sequence: int, ref: BlockRef) -> int:
        return lent_address(sequence, ref) if ref.loan else address_of(ref.block)

    places = [NOWHERE_YET.now(table, address_of) for table in tables]
    reading = Reading.of(
        plan, places, way, lent_address, key=None, local=local, max_body_bytes=1 << 20
    )
    remote: dict[int, dict[int, dict[int, BlockRef]]] = {}
    ways = set()
    for index, span in enumerate(plan.spans):
        for leaf, ref in enumerate(span.table):
            if not address(span.sequence, ref):
                remote.setdefault(ref.instance, {}).setdefault(index, {})[leaf] = ref
                ways.add((span.sequence, "query"))
            elif ref.loan:
                ways.add((span.sequence, way))
    assert reading.remote == remote
    assert set(reading.ways) == ways
    assert len(reading.ways) == len(ways)
    piece = reading.piece
    assert piece.leaf_index.dtype == "int32"
    assert piece.address.dtype == "uint64"
    rows = []
    for at, nodes in zip(piece.segments_S6.tolist(), piece.nodes, strict=True):
        row_start, count, first_position, start, num_leaves, _ = at
        rows += range(row_start, row_start + count)
        span = next(s for s in plan.spans if 0 <= row_start - s.row_start < s.num_rows)
        assert first_position == span.first_position + row_start - span.row_start
        last = (first_position + count - 1) // LAYOUT.tokens
        found = {leaf: address(span.sequence, ref) for leaf, ref in enumerate(span.table)}
        want = [(leaf, at + LAYOUT.offset_bytes) for leaf, at in found.items() if at]
        want = [(leaf, at) for leaf, at in want if leaf <= last]
        numbers = slice(start, start + num_leaves)
        assert piece.leaf_index[numbers].tolist() == [leaf for leaf, _ in want]
        assert piece.address[numbers].tolist() == [at for _, at in want]
        assert nodes == cover([leaf for leaf, _ in want])
    assert rows == list(range(plan.num_rows))
