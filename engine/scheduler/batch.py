"""Batch: which rows run in the next step, and the blocks that they write to. No I/O."""

from collections.abc import Iterable

from engine.core import BlockLayout, Plan, Span
from engine.scheduler.holdings import Holdings
from engine.scheduler.sequence import NOWHERE, Sequence


class Batch:
    """Decodes first, then chunks of prefills and of holes, up to a budget of query tokens."""

    def __init__(self, layout: BlockLayout, max_step_tokens: int) -> None:
        self._layout = layout
        self._max_step_tokens = max_step_tokens
        self._next_step = 1
        self.short: list[Sequence] = []
        """those that the last plan left out or cut because they lack blocks"""

    def plan(self, running: Iterable[Sequence], holdings: Holdings, now: float) -> Plan | None:
        budget = self._max_step_tokens
        self.short = []
        spans: list[Span] = []
        tokens: list[int] = []
        sampled: list[int] = []
        for sequence in sorted(running, key=lambda one: (one.is_prefill, one.seniority)):
            if sequence.paused_until > now:
                continue
            first, end = sequence.next_range
            num_rows = self._open_leaves(sequence, first, min(budget, end - first), holdings)
            if not num_rows:
                continue
            if first + num_rows == len(sequence.token_ids):
                sampled.append(len(spans))
            table = tuple(sequence.table[: self._layout.blocks_for(first + num_rows)])
            spans.append(
                Span(sequence.number, len(tokens), num_rows, first, table, sequence.table_version)
            )
            tokens += sequence.token_ids[first : first + num_rows]
            budget -= num_rows
        if not spans:
            return None
        self._next_step += 1
        return Plan(self._next_step, tuple(tokens), tuple(spans), tuple(sampled))

    def _open_leaves(
        self, sequence: Sequence, first: int, num_rows: int, holdings: Holdings
    ) -> int:
        """Blocks for the rows' keys; how many rows from ``first`` on have them."""
        tokens = self._layout.tokens
        leaves = range(first // tokens, self._layout.blocks_for(first + num_rows))
        # A hole that has grown at its front has blocks behind those that it lacks.
        unopened = [leaf for leaf in leaves if _is_nowhere(sequence, leaf)]
        missing = len(unopened) - len(sequence.spare)
        if missing > 0 and holdings.store.num_free:
            holdings.reserve(sequence, min(missing, holdings.store.num_free))
        for leaf in unopened[: len(sequence.spare)]:
            holdings.open_leaf(sequence, leaf)
        lacking = next((leaf for leaf in unopened if _is_nowhere(sequence, leaf)), None)
        if lacking is None:
            return num_rows
        self.short.append(sequence)
        return min(num_rows, max(0, lacking * tokens - first))


def _is_nowhere(sequence: Sequence, leaf: int) -> bool:
    """The leaf has no block to write to."""
    return leaf >= len(sequence.table) or sequence.table[leaf] is NOWHERE
