"""Protects the choice between reading found keys where they lie, copying and computing them."""

import pytest
from test_pins import prefill

from engine.core import BlockLayout, Request, SamplingParams
from engine.scheduler.prices import LEARNING, Prices
from engine.scheduler.sequence import Sequence

LAYOUT = BlockLayout(layers=2, kv_heads=2, head_dim=64, tokens=16, dtype="float32")


def prices(*, token_s, block_s, trip_s):
    """That have learned these."""
    made = Prices(LAYOUT)
    for _ in range(int(20 / LEARNING)):
        made.timed(prefill(100), [100 * token_s], trip_s)
        made.copied(block_s)
    return made


def sequence(max_tokens):
    sampling = SamplingParams(max_tokens=max_tokens)
    return Sequence(1, Request(request_id="a", prompt_ids=(1, 2), sampling=sampling), [1, 2])


@pytest.mark.parametrize(
    ("num_blocks", "max_tokens", "trip_s", "copied"),
    [
        (250, 10, 0.01, False),  # 0.1 s of waiting against 0.5 s of copying
        (250, 100, 0.01, True),
        (5, 10, 0.01, True),
        (250, 100000, 0.0, False),  # mapped memory is read like own
    ],
)
def test_what_is_cheaper_over_all_steps_to_come(num_blocks, max_tokens, trip_s, copied):
    made = prices(token_s=1.0, block_s=0.002, trip_s=trip_s)
    assert made.are_copied(sequence(max_tokens), num_blocks) == copied
    assert made.is_worth(sequence(max_tokens), num_blocks)


@pytest.mark.parametrize(
    ("num_blocks", "token_s", "worth"),
    [(1, 1e-4, False), (10, 1e-4, True), (10, 1e-5, False), (1000, 1e-5, True)],
)
def test_a_few_tokens_are_computed_sooner_than_they_are_asked_for(num_blocks, token_s, worth):
    made = prices(token_s=token_s, block_s=1e-5, trip_s=0.01)
    assert made.is_worth(sequence(1000), num_blocks) == worth


def test_a_step_of_few_rows_teaches_nothing_of_prompts():
    made = prices(token_s=1e-5, block_s=1e-5, trip_s=0.0)
    made.timed(prefill(3), [100.0], 0.0)
    assert not made.is_worth(sequence(1), 10)
