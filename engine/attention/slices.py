"""How one step's remote part is cut into messages for each holder. Pure bookkeeping."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.attention.local import SEGMENT_ROWS, Cut, cut
from engine.attention.tree import Node, cover
from engine.core import ITEM_BYTES, BlockLayout, BlockRef, ModelShape, Plan
from engine.errors import WontFit
from engine.protocol import AskedHeads, AskSpan


@dataclass(slots=True)
class Slice:
    """Segments that are asked for with one message a layer."""

    segments: list[int] = field(default_factory=list)
    """indexes into the plan's cuts"""
    rows: list[int] | slice = field(default_factory=list)
    """the query rows, in the order they are sent"""
    num_rows: int = 0
    """node rows that come back"""
    base: int = 0
    """their first row in the step's buffer"""


@dataclass(slots=True)
class HolderStep:
    """One holder's share of a step."""

    plan: Plan
    cuts: list[Cut]
    leaves: Mapping[int, Mapping[int, BlockRef]]
    """span index -> leaf -> where it is lent"""
    nodes: dict[int, tuple[Node, ...]]
    slices: list[Slice]

    @property
    def span_indexes(self) -> Iterable[int]:
        return self.leaves.keys()

    @property
    def num_row_keys(self) -> int:
        """Query rows times leaves asked for, summed over spans."""
        return sum(rows * leaves for rows, _, leaves in self.sizes().values())

    def sizes(self) -> dict[int, tuple[int, int, int]]:
        """For each span: query rows, node rows, leaves."""
        return {
            index: (
                self.plan.spans[index].num_rows,
                self.plan.spans[index].num_rows * len(self.nodes[index]),
                len(leaves),
            )
            for index, leaves in self.leaves.items()
        }

    def lay(self, base: int, held: list[dict[Node, int]]) -> int:
        """Give the slices buffer rows from ``base`` on, and enter their nodes in ``held``.

        The order within a slice is the one of ``Piece``; returns the first row behind.
        """
        for part in self.slices:
            part.base = base
            for number in part.segments:
                index, _, num_rows, _ = self.cuts[number]
                for node in self.nodes[index]:
                    held[number][node] = base
                    base += num_rows
        return base

    def ask_spans(self, versions: Mapping[int, int]) -> list[list[AskSpan]]:
        """The slices as the holder is told of them; ``versions`` of the attached tables."""
        told = []
        for part in self.slices:
            spans = []
            for number in part.segments:
                index, _, num_rows, first_position = self.cuts[number]
                sequence = self.plan.spans[index].sequence
                spans.append(AskSpan(sequence, versions[sequence], num_rows, first_position))
            told.append(spans)
        return told


def asked_heads(shape: ModelShape, layout: BlockLayout) -> AskedHeads | None:
    """Those that a step asks for; None where it has all of them."""
    if not layout.whole_kv_heads:
        return None
    return AskedHeads(shape.num_heads, layout.first_kv_head, layout.kv_heads)


def holder_steps(
    plan: Plan,
    remote: Mapping[int, Mapping[int, Mapping[int, BlockRef]]],
    shape: ModelShape,
    max_body_bytes: int,
) -> tuple[dict[int, HolderStep], list[Cut]]:
    """Each holder's slices, such that queries and node rows of each fit one message.

    ``remote`` is holder -> span index -> leaf -> where it is lent. Also returns the plan's cuts,
    which all pieces of the step share.
    """
    node_row_bytes = shape.num_heads * (shape.head_dim + 1) * ITEM_BYTES["float32"]
    nodes = {
        instance: {index: cover(list(leaves)) for index, leaves in spans.items()}
        for instance, spans in remote.items()
    }
    widest = [(len(n), index) for spans in nodes.values() for index, n in spans.items()]
    most, index = max(widest, default=(1, 0))
    max_rows = min(SEGMENT_ROWS, max_body_bytes // (most * node_row_bytes))
    if not max_rows:
        raise WontFit(
            plan.spans[index].sequence,
            f"one query's {most} partials of {node_row_bytes} bytes do not fit a message of "
            f"{max_body_bytes} bytes; raise transport.options.max_body_bytes",
        )
    cuts = cut(plan, max_rows)
    steps = {
        instance: HolderStep(
            plan,
            cuts,
            spans,
            nodes[instance],
            _slices(cuts, nodes[instance], max_body_bytes, shape),
        )
        for instance, spans in remote.items()
    }
    return steps, cuts


def _slices(
    cuts: list[Cut], nodes: dict[int, tuple[Node, ...]], max_body_bytes: int, shape: ModelShape
) -> list[Slice]:
    head_rows = shape.num_heads * ITEM_BYTES["float32"]
    slices: list[Slice] = []
    room = 0
    for number, (index, row_start, num_rows, _) in enumerate(cuts):
        if index not in nodes:
            continue
        num_node_rows = num_rows * len(nodes[index])
        # Partials are never smaller than the queries they answer.
        num_bytes = num_node_rows * head_rows * (shape.head_dim + 1)
        if not slices or num_bytes > room:
            slices.append(Slice())
            room = max_body_bytes
        part = slices[-1]
        part.segments.append(number)
        assert isinstance(part.rows, list)
        part.rows.extend(range(row_start, row_start + num_rows))
        part.num_rows += num_node_rows
        room -= num_bytes
    for part in slices:
        assert isinstance(part.rows, list)
        if part.rows[-1] - part.rows[0] + 1 == len(part.rows):
            part.rows = slice(part.rows[0], part.rows[-1] + 1)  # a view, not a gather
    return slices
