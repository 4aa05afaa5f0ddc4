"""Batch: which rows run in the next step, and the blocks that they write to. No I/O."""

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from operator import attrgetter

from engine.core import BlockLayout, Plan, Scored, Span
from engine.scheduler.chunks import Chunks
from engine.scheduler.holdings import Holdings
from engine.scheduler.sequence import Sequence

MAX_SCORED_ROWS = 128
"""of a step: each costs a row of logits, half a megabyte for the largest vocabularies"""


class Batch:
    """Decodes first, then chunks of prefills and of holes, up to a budget of query tokens.

    Of what decodes leave, prefills that are shorter than the first one's rest have up to half, the
    shortest first; all else is the first one's, then the others'. So a short prompt does not wait
    for a long one, and the long one gets half of every step.
    """

    def __init__(self, layout: BlockLayout, chunks: Chunks) -> None:
        self._layout = layout
        self._chunks = chunks
        self._next_step = 1
        self.short: list[Sequence] = []
        """those that the last plan left out or cut because they lack blocks"""

    def plan(self, running: Iterable[Sequence], holdings: Holdings, now: float) -> Plan | None:
        self.short = []
        spans: list[Span] = []
        tokens: list[int] = []
        sampled: list[int] = []
        scored: list[Scored] = []
        left = MAX_SCORED_ROWS
        decodes, prefills = _ready(running, now)
        budget = self._chunks.budget(len(decodes))
        num_left = max(0, budget - len(decodes))
        for sequence in decodes:
            first = sequence.num_computed
            if self._open_leaves(sequence, first, min(max(budget, 0), 1), holdings):
                sampled.append(len(spans))
                spans.append(self._span(sequence, len(tokens), 1, first))
                tokens.append(sequence.token_ids[first])
                budget -= 1
        for sequence, kept in _in_order(prefills, num_left):
            first, end = sequence.next_range
            most = min(max(budget - kept, 0), end - first)
            unscored = _first_unscored(sequence)
            if first <= unscored:
                most = min(most, unscored - first + left)
            num_rows = self._open_leaves(sequence, first, most, holdings)
            if not num_rows:
                continue
            if first <= unscored < first + num_rows:
                token_ids = sequence.request.prompt_ids[unscored + 1 : first + num_rows + 1]
                scored.append(Scored(len(spans), len(tokens) + unscored - first, token_ids))
                left -= len(token_ids)
            if first + num_rows == len(sequence.token_ids):
                sampled.append(len(spans))
            spans.append(self._span(sequence, len(tokens), num_rows, first))
            tokens += sequence.token_ids[first : first + num_rows]
            budget -= num_rows
        if not spans:
            return None
        self._next_step += 1
        return Plan(self._next_step, tuple(tokens), tuple(spans), tuple(sampled), tuple(scored))

    def _span(self, sequence: Sequence, row_start: int, num_rows: int, first: int) -> Span:
        table = sequence.leaves(self._layout.blocks_for(first + num_rows))
        return Span(sequence.number, row_start, num_rows, first, table, sequence.table_version)

    def _open_leaves(
        self, sequence: Sequence, first: int, num_rows: int, holdings: Holdings
    ) -> int:
        """Blocks for the rows' keys; how many rows from ``first`` on have them."""
        tokens = self._layout.tokens
        if num_rows == 1 and sequence.has(first // tokens):  # most decodes
            return 1
        leaves = range(first // tokens, self._layout.blocks_for(first + num_rows))
        # A hole that has grown at its front has blocks behind those that it lacks.
        unopened = [leaf for leaf in leaves if not sequence.has(leaf)]
        missing = len(unopened) - len(sequence.spare)
        if missing > 0 and holdings.store.num_free:
            holdings.reserve(sequence, min(missing, holdings.store.num_free))
        num_there = len(sequence.spare)
        for leaf in unopened[:num_there]:
            holdings.open_leaf(sequence, leaf)
        if len(unopened) <= num_there:
            return num_rows
        self.short.append(sequence)
        return min(num_rows, max(0, unopened[num_there] * tokens - first))


def _ready(running: Iterable[Sequence], now: float) -> tuple[list[Sequence], list[Sequence]]:
    """Those that decode, the eldest first, and those that compute their prompt or a hole."""
    decodes: list[Sequence] = []
    prefills: list[Sequence] = []
    for one in running:
        if one.paused_until <= now:
            (prefills if one.is_prefill else decodes).append(one)
    decodes.sort(key=_seniority)
    return decodes, prefills


def _in_order(prefills: Many[Sequence], left: int) -> Iterator[tuple[Sequence, int]]:
    """In the order in which they take the rows that decodes have left, and how many of these each
    leaves to those behind."""
    if not prefills:
        return
    head = min(prefills, key=_seniority)
    priority = head.request.priority
    kept = min(head.num_left, left - left // 2)
    others = [one for one in prefills if one is not head]
    others.sort(key=lambda one: (one.request.priority, one.num_left, one.seniority))
    shorter = [o for o in others if o.num_left < head.num_left and o.request.priority == priority]
    yield from ((one, kept) for one in shorter)
    yield head, 0
    yield from ((one, 0) for one in others if one not in shorter)


_seniority = attrgetter("seniority")


def _first_unscored(sequence: Sequence) -> int:
    """The row behind which the next prompt token stands whose Score is wanted; -1: none is."""
    if sequence.request.sampling.prompt_logprobs is None:
        return -1
    return sequence.num_scored if sequence.num_scored < sequence.num_prompt - 1 else -1
