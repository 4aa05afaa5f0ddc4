"""The fixed merge tree: a cover is exactly its leaves, and every split meets in the same merges."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.attention.tree import MergeProgram, Node, Piece, Segment, cover

leaf_sets = st.sets(st.integers(0, 200), max_size=60).map(sorted)


def leaves_of(node: Node) -> range:
    return range(node.index << node.level, (node.index + 1) << node.level)


@given(leaf_sets)
def test_a_cover_holds_exactly_the_leaves_in_order(leaves: list[int]) -> None:
    assert [leaf for node in cover(leaves) for leaf in leaves_of(node)] == leaves


@given(leaf_sets)
def test_a_cover_is_the_fewest_nodes(leaves: list[int]) -> None:
    # The fewest are the maximal subtrees: found by brute force over all nodes.
    held = set(leaves)
    full = {
        Node(level, index)
        for level in range(9)
        for index in range((201 >> level) + 1)
        if held.issuperset(leaves_of(Node(level, index)))
    }
    assert set(cover(leaves)) == {node for node in full if node.parent not in full}


@given(st.lists(st.tuples(st.integers(0, 3), leaf_sets), max_size=5))
def test_a_piece_lays_out_its_node_rows_without_gaps(drawn: list[tuple[int, list[int]]]) -> None:
    segments = [
        Segment(7 * s, num_rows, 3, tuple(leaves), tuple(100 + leaf for leaf in leaves))
        for s, (num_rows, leaves) in enumerate(drawn)
    ]
    piece = Piece.of(segments)
    next_row = next_leaf = 0
    for segment, at, nodes in zip(segments, piece.segments_S6.tolist(), piece.nodes, strict=True):
        assert at[:3] == [segment.row_start, segment.num_rows, segment.first_position]
        assert at[3:] == [next_leaf, len(segment.leaves), next_row]
        assert nodes == cover(segment.leaves)
        next_leaf += len(segment.leaves)
        next_row += len(nodes) * segment.num_rows
    assert piece.num_node_rows == next_row
    assert piece.address.tolist() == [100 + leaf for leaf in piece.leaf_index.tolist()]


def expression(held: dict[Node, int], num_rows: int) -> object:
    """What the program computes for one sequence, as nested pairs of leaves."""

    def whole(node: Node) -> object:
        if node.level == 0:
            return node.index
        left, right = Node(node.level - 1, 2 * node.index), Node(node.level - 1, 2 * node.index + 1)
        return (whole(left), whole(right))

    program = MergeProgram.of([(0, num_rows)], [held])
    rows = {row: whole(node) for node, row in held.items()}
    for left, right, count in program.merges_M3.tolist():
        assert count == num_rows
        rows[left] = (rows[left], rows.pop(right))
    ((root, _, _),) = program.roots_S3.tolist()
    assert list(rows) == ([root] if held else [])  # every node row was merged exactly once
    return rows.get(root)


@given(st.integers(0, 70), st.integers(1, 5), st.data())
def test_any_split_of_the_leaves_is_the_same_expression(
    num_leaves: int, num_pieces: int, data: st.DataObject
) -> None:
    owner = data.draw(
        st.lists(st.integers(0, num_pieces - 1), min_size=num_leaves, max_size=num_leaves)
    )
    pieces = [[n for n in range(num_leaves) if owner[n] == p] for p in range(num_pieces)]
    split = [node for piece in pieces for node in cover(piece)]
    one_by_one = {Node(0, n): 3 * n for n in range(num_leaves)}
    held = {node: 3 * number for number, node in enumerate(split)}
    assert expression(held, 3) == expression(one_by_one, 3)


def test_the_expression_is_left_then_right_with_the_ragged_end_last() -> None:
    held = {Node(0, n): n for n in range(5)}
    assert expression(held, 1) == (((0, 1), (2, 3)), 4)


@given(st.lists(leaf_sets, max_size=4))
def test_each_sequence_has_its_own_root(sets: list[list[int]]) -> None:
    held: list[dict[Node, int]] = []
    base = 0
    for leaves in sets:
        held.append({node: base + 2 * n for n, node in enumerate(cover(leaves))})
        base += 2 * len(held[-1])
    program = MergeProgram.of([(10 * s, 2) for s in range(len(sets))], held)
    assert [root[1:] for root in program.roots_S3.tolist()] == [
        [10 * s, 2] for s in range(len(sets))
    ]
    for (root, _, _), nodes in zip(program.roots_S3.tolist(), held, strict=True):
        assert (root in nodes.values()) if nodes else root == -1
    sources = Counter(right for _, right, _ in program.merges_M3.tolist())
    assert all(times == 1 for times in sources.values())


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(leaf_sets, max_size=3)), max_size=4))
def test_a_program_is_made_of_one_merge_after_the_other(
    drawn: list[tuple[int, list[list[int]]]],
) -> None:
    """Level by level, left to right, sequence by sequence, whatever was made before."""
    held: list[dict[Node, int]] = []
    base = 0
    for num_rows, sets in drawn:
        held.append({})
        taken: set[int] = set()
        for leaves in sets:  # of several holders, who have no leaf twice
            for node in cover(sorted(set(leaves) - taken)):
                held[-1][node] = base
                base += num_rows
            taken |= set(leaves)
    rows = [(10 * number, num_rows) for number, (num_rows, _) in enumerate(drawn)]
    merges, roots = [], []
    for (row_start, num_rows), nodes in zip(rows, held, strict=True):
        left = sorted((node.level, node.index, at) for node, at in nodes.items())
        while len(left) > 1:
            level, index, at = left.pop(0)
            if left[0][:2] == (level, index + 1) and index % 2 == 0:
                merges.append((at, left.pop(0)[2], num_rows))
            left = sorted([*left, (level + 1, index // 2, at)])
        roots.append((left[0][2] if left else -1, row_start, num_rows))
    program = MergeProgram.of(rows, held)
    assert list(map(tuple, program.merges_M3.tolist())) == merges
    assert list(map(tuple, program.roots_S3.tolist())) == roots
