"""Laws of the merge, and the float64 oracle: neither alone would see every wrong formula."""

import math
from itertools import permutations

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerance import TOLERANCE
from torch import Tensor

from engine.attention.local import NodeRows
from engine.attention.merge import merge_pair, run_program
from engine.attention.tree import MergeProgram, Node

BOUND = TOLERANCE["float32"]
Pieces = tuple[Tensor, Tensor]


@st.composite
def pieces(draw: st.DrawFn, min_pieces: int = 1) -> Pieces:
    """Out [N, T, H, D] and lse [N, T, H]; any of them empty, row by row or as a whole."""
    num = draw(st.integers(min_pieces, 6), label="pieces")
    rows = draw(st.integers(1, 5), label="rows")
    dim = draw(st.sampled_from([1, 3, 16, 64]), label="dim")
    size = draw(st.sampled_from([1.0, 1e-3, 30.0]), label="size")
    gap = draw(st.sampled_from([1.0, 0.0, 30.0, 1e4]), label="gap")
    empty = draw(st.sets(st.integers(0, num - 1)), label="empty")
    random = torch.Generator().manual_seed(draw(st.integers(0, 999), label="seed"))
    out_NTHD = size * torch.randn(num, rows, 2, dim, generator=random)
    lse_NTH = gap * torch.randn(num, rows, 2, generator=random)
    blind_NTH = torch.rand(num, rows, 2, generator=random) < 0.2
    blind_NTH[list(empty)] = True
    return out_NTHD.masked_fill(blind_NTH[..., None], 0.0), lse_NTH.masked_fill(
        blind_NTH, -math.inf
    )


def tree(out_NTHD: Tensor, lse_NTH: Tensor) -> Pieces:
    """Merged along the fixed tree: piece n is leaf n."""
    num, rows = lse_NTH.shape[:2]
    program = MergeProgram.of([(0, rows)], [{Node(0, n): n * rows for n in range(num)}])
    node_rows = NodeRows(out_NTHD.flatten(0, 1).clone(), lse_NTH.flatten(0, 1).clone())
    partial = run_program(program, node_rows, rows)
    return partial.out_THD, partial.lse_TH


def fold(out_NTHD: Tensor, lse_NTH: Tensor) -> Pieces:
    """Merged one after the other."""
    out, lse = out_NTHD[0], lse_NTH[0]
    for n in range(1, len(out_NTHD)):
        out, lse = merge_pair(out, lse, out_NTHD[n], lse_NTH[n])
    return out, lse


def assert_close(got: Pieces, want: Pieces, num: int, largest: float) -> None:
    (got_out, got_lse), (want_out, want_lse) = got, want
    assert not got_out.isnan().any()
    assert torch.equal(got_lse == -math.inf, want_lse == -math.inf)
    seen = want_lse > -math.inf
    bound = BOUND * num * (1 + want_lse[seen].abs().max().item() if seen.any() else 1)
    assert ((got_lse - want_lse)[seen].abs() <= bound).all()
    assert ((got_out - want_out).abs() <= bound * (1 + largest)).all()


def same_bits(a: Pieces, b: Pieces) -> bool:
    return all(
        torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("merged", [tree, fold])
@given(drawn=pieces())
def test_a_merge_is_attention_over_the_union(merged, drawn: Pieces) -> None:
    largest = drawn[0].abs().max().item()
    assert_close(merged(*drawn), oracle.merge(*drawn), len(drawn[0]), largest)


@given(drawn=pieces(min_pieces=2), data=st.data())
def test_the_order_of_pieces_and_their_nesting_do_not_matter(
    drawn: Pieces, data: st.DataObject
) -> None:
    out, lse = drawn
    order = data.draw(st.permutations(range(len(out))), label="order")
    at = data.draw(st.integers(1, len(out) - 1), label="at")
    largest = out.abs().max().item()
    want = fold(out, lse)
    assert_close(fold(out[order], lse[order]), want, len(out), largest)
    nested = merge_pair(*fold(out[:at], lse[:at]), *fold(out[at:], lse[at:]))
    assert_close(nested, want, len(out), largest)


@given(drawn=pieces(min_pieces=2))
def test_the_bits_are_those_of_the_tree(drawn: Pieces) -> None:
    """Left then right, pair by pair, level by level; nothing else has these bits for sure."""
    level = list(zip(*drawn, strict=True))
    while len(level) > 1:
        pairs = [(*level[i], *level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [merge_pair(*pair) for pair in pairs] + level[len(pairs) * 2 :]
    assert same_bits(tree(*drawn), level[0])


@given(drawn=pieces(), left=st.booleans(), negative_zero=st.booleans())
def test_merging_with_the_empty_partial_changes_no_bit(
    drawn: Pieces, left: bool, negative_zero: bool
) -> None:
    out, lse = drawn[0][0], drawn[1][0]
    if negative_zero:
        out[0], lse[0] = -0.0, -0.0
    nothing = torch.zeros_like(out), torch.full_like(lse, -math.inf)
    merged = merge_pair(*nothing, out, lse) if left else merge_pair(out, lse, *nothing)
    assert same_bits(merged, (out, lse))


@given(drawn=pieces())
def test_only_empty_pieces_merge_to_an_empty_one(drawn: Pieces) -> None:
    nothing = torch.zeros_like(drawn[0]), torch.full_like(drawn[1], -math.inf)
    for merged in (tree, fold):
        assert same_bits(merged(*nothing), (nothing[0][0], nothing[1][0]))


@given(drawn=pieces())
def test_a_single_piece_is_unchanged(drawn: Pieces) -> None:
    one = drawn[0][:1], drawn[1][:1]
    assert same_bits(tree(*one), (one[0][0], one[1][0]))


@given(drawn=pieces())
def test_outputs_lie_between_the_smallest_and_the_largest_piece(drawn: Pieces) -> None:
    out_NTHD, lse_NTH = drawn
    out, lse = tree(out_NTHD, lse_NTH)
    unseen = (lse_NTH == -math.inf)[..., None]
    low = out_NTHD.masked_fill(unseen, math.inf).amin(0)
    high = out_NTHD.masked_fill(unseen, -math.inf).amax(0)
    slack = BOUND * len(out_NTHD) * out_NTHD.abs().max().item()
    seen = (lse > -math.inf)[..., None]
    assert ((out >= low - slack) & (out <= high + slack) | ~seen).all()


@given(drawn=pieces(), shift=st.sampled_from([-100.0, 0.5, 3.0, 1000.0]))
def test_adding_to_all_lses_changes_the_lse_alone(drawn: Pieces, shift: float) -> None:
    out, lse = tree(*drawn)
    shifted = tree(drawn[0], drawn[1] + shift)
    # What rounding of the sum lse + shift does to the weights is no fault of the merge.
    largest = max(abs(shift), *drawn[1].masked_fill(drawn[1] == -math.inf, 0).abs().flatten())
    allowed = (1 + float(largest)) * (1 + drawn[0].abs().max().item())
    assert_close(shifted, (out, lse + shift), len(drawn[0]), allowed)


def test_gaps_of_any_size_give_no_nan() -> None:
    lses = (-math.inf, -1e4, -87.4, 0.0, 88.8, 1e4, 3e38, -3e38)
    for a, b in permutations(lses, 2):
        out, lse = merge_pair(
            torch.ones(1, 4), torch.tensor([a]), torch.full((1, 4), 3.0), torch.tensor([b])
        )
        assert ((out >= 1) & (out <= 3)).all()
        top = torch.tensor(max(a, b)).item()
        assert top <= lse.item() <= top + math.log(2) + BOUND * abs(top)


@given(drawn=pieces(), num_queries=st.integers(0, 3))
def test_rows_without_a_key_are_empty_wherever_the_others_are(
    drawn: Pieces, num_queries: int
) -> None:
    """A program with three spans; the middle one has no node at all."""
    rows = drawn[1].shape[1]
    spans = [(0, rows), (rows, num_queries), (rows + num_queries, rows)]
    leaves = {Node(0, n): n * rows for n in range(len(drawn[1]))}
    again = {node: at + len(drawn[1]) * rows for node, at in leaves.items()}
    program = MergeProgram.of(spans, [leaves, {}, again])
    buffer = [torch.cat([part.flatten(0, 1)] * 2) for part in drawn]
    partial = run_program(program, NodeRows(*buffer), 2 * rows + num_queries)
    for at in (0, rows + num_queries):
        got = partial.out_THD[at : at + rows], partial.lse_TH[at : at + rows]
        assert same_bits(got, tree(*drawn))
    middle = slice(rows, rows + num_queries)
    assert not partial.out_THD[middle].any()
    assert (partial.lse_TH[middle] == -math.inf).all()
