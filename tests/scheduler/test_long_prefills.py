"""While a long prompt is read, answers go on in every step, and short prompts are not kept waiting.

Counted in steps: what a step costs is another matter.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_cluster import Cluster

from engine.core import BlockLayout, Request
from engine.scheduler.batch import Batch
from engine.scheduler.chunks import Chunks
from engine.scheduler.sequence import Sequence

LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=1, tokens=2, dtype="float32")
OPTIONS = {"max_step_tokens": 8, "max_num_seqs": 8, "grow_blocks": 40, "placement": "local_only"}


class Endless:
    """Holdings with a block for everybody."""

    def __init__(self):
        self.store = self
        self.num_free = 1 << 30
        self.next_block = 0

    def reserve(self, sequence, num_blocks):
        sequence.spare += range(num_blocks)

    def open_leaf(self, sequence, leaf):
        sequence.spare.pop()
        sequence.table.append((0, leaf))


def sequence(number, num_prompt, *, priority=0):
    request = Request(request_id=str(number), prompt_ids=(1,) * num_prompt, priority=priority)
    return Sequence(number, request, [1] * num_prompt, arrived=float(number))


def run(sequences, max_step_tokens, num_steps):
    """Rows of each sequence by step, until the prompts are read; then they decode."""
    batch, holdings = Batch(LAYOUT, Chunks(max_step_tokens, 0.0)), Endless()
    for _ in range(num_steps):
        plan = batch.plan(sequences, holdings, 0.0)
        assert plan is not None
        assert plan.num_rows <= max_step_tokens
        yield {span.sequence: span.num_rows for span in plan.spans}
        by_number = {one.number: one for one in sequences}
        for index, span in enumerate(plan.spans):
            by_number[span.sequence].advance(span.num_rows)
            if index in plan.sampled:
                by_number[span.sequence].token_ids.append(1)


def test_answers_get_a_token_in_every_step_of_a_long_prefill():
    cluster = Cluster([400], **OPTIONS)
    answers = [cluster.submit(0, [100 + n, 1], 40) for n in range(3)]
    while not all(len(answer.tokens) > 3 for answer in answers):  # each has drawn its blocks
        cluster.round()
    long = cluster.submit(0, [200, *range(1, 41)], 1)
    scheduler, num_steps = cluster.instances[0].scheduler, 0
    while not long.tokens:
        before = [len(answer.tokens) for answer in answers]
        cluster.round()
        if any(one.is_prefill for one in scheduler.running):
            num_steps += 1
            assert [len(answer.tokens) for answer in answers] == [n + 1 for n in before]
    assert num_steps >= 41 // 5 - 1


@pytest.mark.parametrize("num_decodes", [0, 3])
def test_a_short_prompt_behind_a_long_one_does_not_wait_for_it(num_decodes):
    """32 tokens are free a step; the short one has 16 of them, and is through at once."""
    decodes = [sequence(n, 1) for n in range(num_decodes)]
    long, short = sequence(10, 1000), sequence(11, 14)
    steps = list(run([*decodes, long, short], 32, 3))
    assert steps[0] == {**dict.fromkeys(range(num_decodes), 1), 11: 14, 10: 18 - num_decodes}
    assert all(step[n] == 1 for step in steps for n in range(num_decodes))
    assert short.num_output


@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=6),
    num_decodes=st.integers(0, 4),
    max_step_tokens=st.integers(11, 40),
)
@settings(deadline=None)
def test_the_first_prompt_gets_half_of_every_step_and_nothing_is_left_idle(
    lengths, num_decodes, max_step_tokens
):
    decodes = [sequence(n, 1) for n in range(num_decodes)]
    prompts = [sequence(10 + n, length) for n, length in enumerate(lengths)]
    everybody, left = [*decodes, *prompts], {one.number: one.num_left for one in prompts}
    for rows in run(everybody, max_step_tokens, 300):
        reading = [number for number, rest in left.items() if rest > 1]  # 1: like an answer
        if not reading:
            break
        answering = [one.number for one in everybody if one.number not in reading]
        free = max_step_tokens - len(answering)
        head = min(reading)
        assert all(rows[number] == 1 for number in answering)
        assert rows.get(head, 0) >= min(left[head], free - free // 2)
        assert sum(rows.values()) == len(answering) + min(free, sum(left[n] for n in reading))
        for number in left:
            left[number] -= rows.get(number, 0)
    else:
        raise AssertionError("not all prompts are read")


def test_prompts_of_one_length_are_read_one_after_the_other():
    steps = list(run([sequence(n, 20) for n in range(3)], 10, 2))
    assert steps == [{0: 10}, {0: 10}]


def test_a_less_urgent_prompt_takes_nothing_from_a_long_one():
    steps = list(run([sequence(0, 100), sequence(1, 4, priority=1)], 10, 3))
    assert steps == [{0: 10}] * 3
