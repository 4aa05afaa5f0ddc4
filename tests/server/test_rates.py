"""Rates: tokens a second and the time to the first one, over the last moments only."""

import pytest

from engine.core import Request
from engine.scheduler.entry import Entry
from engine.server.rates import Rates, mean_ttft_s


def test_tokens_are_counted_over_the_window():
    rates = Rates()
    assert rates.output_tokens_per_s() == 0
    rates.note(100, 0.0)
    assert rates.output_tokens_per_s() == 0
    for second in range(1, 31):
        rates.note(100 + 7 * min(second, 20), float(second))
        assert rates.output_tokens_per_s() == pytest.approx(
            7 if second <= 20 else 7 * (30 - second) / 10
        )


def test_only_late_first_tokens_count():
    def entry(arrived, first_token_at):
        found = Entry(Request(request_id="a", prompt_ids=(1,)), arrived)
        found.first_token_at = first_token_at
        return found

    assert mean_ttft_s([], 100.0) is None
    assert mean_ttft_s([entry(10.0, 89.0), entry(99.0, None)], 100.0) is None
    assert mean_ttft_s([entry(90.0, 92.0), entry(95.0, 99.0), entry(0.0, 5.0)], 100.0) == 3.0
