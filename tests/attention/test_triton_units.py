"""Units of Triton's work meet each leaf once, and their trees make the nodes: no Triton, no GPU."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.tree import MergeProgram, Node, Piece, Segment
from engine.attention.triton.trees import Tree
from engine.attention.triton.units import Units, level_for


def piece_of(leaves: list[list[int]], rows: list[int]) -> Piece:
    starts = np.cumsum([0, *rows]).tolist()
    return Piece.of(
        [
            Segment(start, num, 100, tuple(own), tuple(range(len(own))))
            for start, num, own in zip(starts, rows, leaves, strict=False)
        ]
    )


@given(
    leaves=st.lists(st.sets(st.integers(0, 70)).map(sorted), min_size=1, max_size=4),
    tile=st.integers(1, 6),
    level=st.integers(0, 3),
    max_rows=st.sampled_from([0, 20, 1000]),
    data=st.data(),
)
def test_units_meet_each_leaf_and_token_once_and_their_trees_make_the_nodes(
    leaves: list[list[int]], tile: int, level: int, max_rows: int, data: st.DataObject
) -> None:
    rows = [data.draw(st.integers(0, 7), label="rows") for _ in leaves]
    piece = piece_of(leaves, rows)
    found: dict[int, list[Any]] = {}
    for units in Units.of(piece, tile, level, max_rows):
        buffer: dict[int, Any] = {}
        for segment, token, first, num_leaves, row in units.units_U5.tolist():
            assert num_leaves <= 1 << level
            own = piece.leaf_index[first : first + num_leaves].tolist()
            assert own[0] % num_leaves == 0
            assert own == list(range(own[0], own[0] + num_leaves))
            for t in range(min(tile, rows[segment] - token)):
                assert row + t not in buffer
                buffer[row + t] = [(segment, token + t, leaf) for leaf in own]
        if units.tree is None:
            found |= buffer
            continue
        assert set(buffer) == set(range(units.num_rows))
        found |= run(units.tree, buffer)
    want: dict[int, list[Any]] = {}
    for number, nodes in enumerate(piece.nodes):
        for index, node in enumerate(nodes):
            for t in range(rows[number]):
                row = int(piece.segments_S6[number, 5]) + index * rows[number] + t
                first = node.index << node.level
                want[row] = [(number, t, leaf) for leaf in range(first, first + (1 << node.level))]
    assert found == want


Table = list[tuple[int, ...]]


def plain_units(
    piece: Piece, segments: list[int], tile: int, level: int
) -> tuple[Table, int, tuple[Table, list[int], Table]]:
    """The tables of one batch, an entry at a time."""
    asked = [number for number in segments if piece.segments_S6[number, 1]]
    cut_up = any(node.level > level for number in asked for node in piece.nodes[number])
    units, merges, rounds, roots = [], [], [0], []
    row = 0
    for number in asked:
        _, num_tokens, _, leaf, _, node_row = piece.segments_S6[number].tolist()
        for node in piece.nodes[number]:
            part_leaves = 1 << min(node.level, level)
            num_parts = (1 << node.level) // part_leaves
            at = row if cut_up else node_row
            for part in range(num_parts):
                for token in range(0, num_tokens, tile):
                    to = at + part * num_tokens + token
                    units.append((number, token, leaf + part * part_leaves, part_leaves, to))
            first_round, step = len(rounds) - 1, 1
            while step < num_parts:
                for left in range(0, num_parts, 2 * step):
                    pair = at + left * num_tokens, at + (left + step) * num_tokens
                    merges.append(pair)
                rounds.append(len(merges))
                step *= 2
            roots.append((at, node_row, num_tokens, first_round, len(rounds) - 1))
            leaf, node_row = leaf + (1 << node.level), node_row + num_tokens
            row += num_parts * num_tokens
    return units, row if cut_up else 0, (merges, rounds, roots if cut_up else [])


def plain_batches(piece: Piece, level: int, max_rows: int) -> list[list[int]]:
    batches: list[list[int]] = []
    taken = 0
    for number, (at, nodes) in enumerate(zip(piece.segments_S6, piece.nodes, strict=True)):
        rows = int(at[1]) * sum(1 << max(0, node.level - level) for node in nodes)
        if not batches or taken + rows > max_rows:
            batches.append([])
            taken = 0
        batches[-1].append(number)
        taken += rows
    return batches


@given(
    leaves=st.lists(st.sets(st.integers(0, 70)).map(sorted), max_size=5),
    runs=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=3),
    tile=st.integers(1, 6),
    level=st.integers(0, 3),
    max_rows=st.sampled_from([0, 20, 100, 10_000]),
    data=st.data(),
)
def test_units_are_the_tables_made_an_entry_at_a_time(
    leaves: list[list[int]],
    runs: list[tuple[int, int]],
    tile: int,
    level: int,
    max_rows: int,
    data: st.DataObject,
) -> None:
    leaves = [*leaves, *(list(range(start, start + num)) for start, num in runs)]
    rows = [data.draw(st.integers(0, 7), label="rows") for _ in leaves]
    piece = piece_of(leaves, rows)
    batches = plain_batches(piece, level, max_rows)
    found = Units.of(piece, tile, level, max_rows)
    for batch, units in zip(batches, found, strict=True):
        table, num_rows, tree = plain_units(piece, batch, tile, level)
        assert units.units_U5.dtype == "int32"
        assert units.units_U5.shape == (len(table), 5)
        assert list(map(tuple, units.units_U5.tolist())) == table
        assert units.num_rows == num_rows
        assert (units.tree is not None) == bool(num_rows)
        if units.tree is not None:
            made = units.tree.merges_M2, units.tree.rounds, units.tree.roots_S5
            assert all(x.dtype == "int32" for x in made)
            merges, rounds, roots = (x.tolist() for x in made)
            assert (list(map(tuple, merges)), rounds, list(map(tuple, roots))) == tree
    for enough in (1, 10, 100, 1000):
        fits = [
            level
            for level in (3, 2, 1)
            if enough
            <= 2
            * sum(
                -(-num // tile) * sum(1 << max(0, node.level - level) for node in nodes)
                for num, nodes in zip(rows, piece.nodes, strict=True)
            )
        ]
        assert level_for(piece, tile, 2, enough) == (fits[0] if fits else 0)


def run(tree: Tree, rows: dict[int, Any]) -> dict[int, Any]:
    """The tree over any rows that can be added, a round at a time; no round may need itself."""
    rows, done = dict(rows), {}
    for at, to, num_rows, first, last in tree.roots_S5.tolist():
        for i in range(first, last):
            merges = tree.merges_M2[tree.rounds[i] : tree.rounds[i + 1]].tolist()
            assert max(Counter(x for pair in merges for x in pair).values()) == 1
            for left, right in merges:
                for n in range(num_rows):
                    rows[left + n] = rows[left + n] + rows[right + n]
        for n in range(num_rows):
            done[to + n] = rows[at + n] if at >= 0 else None
    return done


@given(
    leaves=st.lists(st.sets(st.integers(0, 40)).map(sorted), min_size=1, max_size=4),
    data=st.data(),
)
def test_a_tree_does_what_its_program_does(leaves: list[list[int]], data: st.DataObject) -> None:
    num_rows = [data.draw(st.integers(1, 3), label="rows") for _ in leaves]
    starts = np.cumsum([0, *num_rows]).tolist()
    total = sum(len(own) * n for own, n in zip(leaves, num_rows, strict=True))
    held, at = [], 0
    for own, n in zip(leaves, num_rows, strict=True):
        held.append({Node(0, leaf): at + i * n for i, leaf in enumerate(own)})
        at += len(own) * n
    program = MergeProgram.of(list(zip(starts, num_rows, strict=False)), held)
    rows = {row: f"({row})" for row in range(total)}
    want, known = {}, dict(rows)
    for left, right, n in program.merges_M3.tolist():
        for i in range(n):
            known[left + i] += known[right + i]
    for row, to, n in program.roots_S3.tolist():
        want |= {to + i: known[row + i] if row >= 0 else None for i in range(n)}
    assert run(Tree.of(program), rows) == want


def test_long_contexts_are_cut_up_until_there_is_enough_to_do() -> None:
    piece = piece_of([list(range(64))], [1])
    assert [level_for(piece, 4, 2, enough) for enough in (1, 16, 17, 64, 100, 1000)] == [
        3,
        3,
        2,
        1,
        0,
        0,
    ]
