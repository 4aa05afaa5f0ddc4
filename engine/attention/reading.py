"""Reading: where a step's leaves are read, and how their partials come together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.attention.local import Cut, LocalBackend, NodeRows, cut, rows_of_nodes
from engine.attention.places import Places
from engine.attention.slices import HolderStep, holder_steps
from engine.attention.tree import MergeProgram, Node, Piece
from engine.core import BlockRef, Plan

Remote = dict[int, dict[int, Mapping[int, BlockRef]]]
"""holder -> span index -> leaf -> where it is lent"""


@dataclass(slots=True)
class Reading:
    """Made for one step; decodes go on with it as long as their tables stay as they are."""

    key: Any
    remote: Remote
    ways: list[tuple[int, str]]
    """(sequence, way) of all that are taken"""
    steps: dict[int, HolderStep]
    piece: Piece
    rows: NodeRows
    """one buffer for the node rows of all"""
    program: MergeProgram

    @staticmethod
    def of(
        plan: Plan,
        places: Sequence[Places],
        way: str,
        where: Callable[[int, BlockRef], int],
        *,
        key: Any,
        local: LocalBackend,
        max_body_bytes: int,
    ) -> Reading:
        """``places[s]`` of span ``s``; ``where`` gives a lent rBlock's address for a sequence, 0
        where its holder is to be asked. ``way`` is the one by which there are addresses: by
        ``query`` there are none."""
        chosen: list[Places] = []
        remote: Remote = {}
        ways: list[tuple[int, str]] = []
        for index, (span, own) in enumerate(zip(plan.spans, places, strict=True)):
            at_hand: dict[int, int] = {}
            for holder, refs in own.lent.items():
                here: dict[int, int] = {}
                if way != "query":
                    found = {leaf: where(span.sequence, ref) for leaf, ref in refs.items()}
                    here = {leaf: address for leaf, address in found.items() if address}
                at_hand |= here
                asked = {leaf: refs[leaf] for leaf in refs if leaf not in here} if here else refs
                if asked:
                    remote.setdefault(holder, {})[index] = asked
            chosen.append(own.along(at_hand))
            if at_hand:
                ways.append((span.sequence, way))
            if len(at_hand) < own.num_lent:
                ways.append((span.sequence, "query"))
        steps, cuts = holder_steps(plan, remote, local.shape, max_body_bytes)
        piece = local.piece(cuts, chosen)
        base = piece.num_node_rows
        held: list[dict[Node, int]] = rows_of_nodes(piece, 0)
        for step in steps.values():
            base = step.lay(base, held)
        rows = NodeRows.empty(base, local.shape, local.device)
        program = MergeProgram.of([(c.row_start, c.num_rows) for c in cuts], held)
        return Reading(key, remote, ways, steps, piece, rows, program)

    @staticmethod
    def key_of(plan: Plan, way: str) -> Any:
        """What a reading depends on, positions apart; None when there is none that lasts."""
        if way == "copy" or any(span.num_rows != 1 for span in plan.spans):
            return None
        return way, [(span.sequence, span.table) for span in plan.spans]

    def go_on(self, plan: Plan) -> None:
        """The same tables, later positions."""
        cuts: list[Cut] = cut(plan)
        self.piece.segments_S6[:, 2] = [c.first_position for c in cuts]
        for step in self.steps.values():
            step.plan, step.cuts = plan, cuts
