"""Profile: a few timed steps before the first request, so that the planner knows this machine.

The performance model's f (a step's time by its rows) and g (by the keys it attends to) begin with
these samples and go on with those of real steps (PAPER 2.4). The blocks are given back.
"""

import time

from engine.attention.lenders import Lenders
from engine.core import BlockLayout, BlockRef, Plan, Span
from engine.model.runner import Runner
from engine.protocol import Draw, Drawn, Give, StepSample

BATCHES = (1, 4, 16)
MAX_BLOCKS = 256
REPEATS = 3
"""of each kind of step; the first one warms up"""
DRAW_S = 2.0


def profile(
    runner: Runner,
    lenders: Lenders,
    *,
    instance: int,
    layout: BlockLayout,
    max_positions: int,
) -> list[StepSample]:
    """Steps of some batches over few and over many keys; fewer where the pool has few blocks."""
    blocks = _draw(lenders, instance)
    samples = []
    for batch in BATCHES:
        longest = min(len(blocks) // batch, max_positions // layout.tokens)
        for length in sorted({min(1, longest), longest} - {0}):
            plan = _plan(blocks, batch, length, instance, layout.tokens)
            keys = batch * length * layout.tokens
            for number in range(REPEATS):
                began = time.perf_counter()
                runner.run(plan)
                seconds = time.perf_counter() - began
                if number:
                    samples.append(StepSample(batch, keys, 0, seconds))
    lenders.send(instance, Give(blocks))
    return samples


def _draw(lenders: Lenders, instance: int) -> list[int]:
    lenders.send(instance, Draw(MAX_BLOCKS))
    deadline = time.monotonic() + DRAW_S
    while time.monotonic() < deadline:
        lenders.pump(0.1)
        for item in list(lenders.inbox):
            _, message = item
            if isinstance(message, Drawn) and not message.staging:
                lenders.inbox.remove(item)
                return message.blocks
    return []


def _plan(blocks: list[int], batch: int, length: int, instance: int, tokens: int) -> Plan:
    """One token of each of ``batch`` sequences, behind ``length`` blocks less one token."""
    spans = []
    for row in range(batch):
        own = blocks[row * length : (row + 1) * length]
        table = tuple(BlockRef(instance, block) for block in own)
        spans.append(Span(row, row, 1, length * tokens - 1, table, 0))
    return Plan(0, (0,) * batch, tuple(spans), tuple(range(batch)))
