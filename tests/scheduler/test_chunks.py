"""Protects that with a limit nobody's next token waits longer for a long prompt beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_cluster import Cluster

from engine.core import Plan, Span
from engine.scheduler.chunks import LEAST, Chunks

LIMIT_S = 0.1


def plan_of(num_decodes, num_rows):
    rows = [1] * num_decodes + [num_rows] * bool(num_rows)
    spans = tuple(Span(number, 0, count, 0, (), 0) for number, count in enumerate(rows))
    return Plan(1, (0,) * sum(rows), spans, (), ())


def reads(chunks, num_decodes, num_tokens, step_s, row_s, key_s, *, first=0):
    """(rows, seconds) of each step in which a prompt of so many tokens is read."""
    while first < num_tokens:
        num_rows = min(chunks.budget(num_decodes) - num_decodes, num_tokens - first)
        seconds = step_s + num_rows * (row_s + key_s * (first + num_rows / 2))
        chunks.timed(plan_of(num_decodes, num_rows), seconds)
        first += num_rows
        yield num_rows, seconds


def test_without_a_limit_or_anybody_who_decodes_a_step_takes_all_that_it_may():
    free, limited = Chunks(512, 0.0), Chunks(512, LIMIT_S)
    for chunks in (free, limited):
        chunks.timed(plan_of(2, 400), 30.0)
    assert free.budget(8) == 512
    assert limited.budget(0) == 512
    assert limited.budget(8) == 8 + LEAST


@given(
    num_decodes=st.integers(1, 40),
    step_s=st.floats(0.001, 0.08),
    row_s=st.floats(1e-6, 1e-3),
    key_s=st.floats(0, 1e-7),
)
def test_next_tokens_come_in_time_however_deep_the_prompt_is(num_decodes, step_s, row_s, key_s):
    chunks = Chunks(2048, LIMIT_S)
    chunks.timed(plan_of(num_decodes, 0), step_s)
    steps = list(reads(chunks, num_decodes, 100_000, step_s, row_s, key_s))
    settled = steps[8:]
    for (rows, seconds), (rows_before, _) in zip(settled, steps[7:], strict=False):
        assert seconds < 1.1 * LIMIT_S or rows <= LEAST
        # and no shorter than they need be
        full = rows >= min(2048 - num_decodes, 2 * rows_before) or seconds > 0.8 * LIMIT_S
        assert full or rows <= LEAST or (rows, seconds) == steps[-1]


def test_the_next_prompt_is_read_in_long_chunks_again():
    chunks = Chunks(2048, LIMIT_S)
    chunks.timed(plan_of(4, 0), 0.02)
    *_, (deep, _) = reads(chunks, 4, 100_000, 0.02, 1e-5, 1e-8)
    rows = [rows for rows, _ in reads(chunks, 4, 20_000, 0.02, 1e-5, 1e-8)]
    assert deep < 100
    assert max(rows[:8]) > 1000


def test_a_step_that_takes_too_long_without_a_prompt_still_reads_some():
    chunks = Chunks(2048, LIMIT_S)
    chunks.timed(plan_of(4, 0), 2 * LIMIT_S)
    *_, (rows, _) = reads(chunks, 4, 5000, 2 * LIMIT_S, 1e-4, 0.0)
    assert 0 < rows <= LEAST


@pytest.mark.parametrize(("max_tpot_s", "longest"), [(0.0, 50), (0.02, 20)])
def test_a_cluster_reads_in_shorter_chunks_when_its_steps_take_long(max_tpot_s, longest):
    cluster = Cluster([400], max_step_tokens=64, grow_blocks=20, max_tpot_s=max_tpot_s)
    scheduler, lengths = cluster.instances[0].scheduler, []
    timed = scheduler.timed

    def take(plan, lasted, now, trip_s):
        lengths.append(max(span.num_rows for span in plan.spans))
        timed(plan, [0.001 * plan.num_rows], now, trip_s)

    scheduler.timed = take
    answer = cluster.submit(0, [100, 1], 60)
    while len(answer.tokens) < 3:
        cluster.round()
    scheduler.chunks.timed(plan_of(1, 60), 0.061)
    long = cluster.submit(0, [200, *range(1, 50)], 1)
    while not long.tokens:
        cluster.round()
    assert not answer.done
    assert max(lengths) == longest
