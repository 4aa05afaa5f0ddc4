"""The seconds of the last minutes: every token once, quantiles near the exact ones, gaps honest."""

from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import Request, SamplingParams
from engine.scheduler.entry import Entry
from engine.server.history import KEEP_S, WINDOW_S, History

UNIX = 1_790_000_000


def entry_of(name="r", *, instance=0, arrived=0.0):
    entry = Entry(Request(request_id=name, prompt_ids=(1, 2), sampling=SamplingParams()), arrived)
    entry.instance = instance
    return entry


def give(history, entry, number, now):
    entry.token_ids += [7] * number
    history.note(entry, number, now)


def seconds_of(history, now, since=0):
    return {one["second"] - UNIX: one for one in history.body(since, now)["seconds"]}


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 3), st.floats(0, 2, allow_nan=False)),
        max_size=60,
    )
)
def test_each_token_is_in_one_second_and_all_seconds_are_told(arrivals):
    history, entries = (
        History(100.5, UNIX + 100.5),
        [entry_of(str(i), instance=i) for i in range(3)],
    )
    now, expected = 100.5, {}
    for instance, number, wait in arrivals:
        now += wait
        give(history, entries[instance], number, now)
        key = floor(now), str(instance)
        expected[key] = expected.get(key, 0) + number
    found = seconds_of(history, now + 1)
    assert list(found) == list(range(100, floor(now) + 1))
    told = {(t, i): n for t, one in found.items() for i, n in one["tokens"].items()}
    assert told == expected


@given(st.lists(st.floats(1e-4, 50), min_size=1, max_size=200))
def test_quantiles_are_those_of_the_values_to_a_fiftieth(waits):
    history = History(1000.0, UNIX + 1000)
    for number, wait in enumerate(waits):
        give(history, entry_of(str(number), arrived=1000.5 - wait), 1, 1000.5)
    told = seconds_of(history, 1001)[1000]
    exact = [sorted(waits)[ceil(q * len(waits)) - 1] for q in (0.5, 0.99)]
    assert told["ttft_s"] == pytest.approx(exact, rel=0.011)
    assert told["gap_s"] is None


def test_several_tokens_at_once_share_the_time_since_the_last():
    history, entry = History(0.0, UNIX), entry_of()
    give(history, entry, 1, 0.2)
    give(history, entry, 4, 0.6)
    told = seconds_of(history, 1.0)[0]
    assert told["gap_s"] == pytest.approx([0.1, 0.1], rel=0.011)
    assert told["ttft_s"] == pytest.approx([0.2, 0.2], rel=0.011)


def test_values_count_for_the_window_and_no_longer():
    history = History(0.0, UNIX)
    give(history, entry_of(), 1, 0.5)
    told = seconds_of(history, WINDOW_S + 5)
    assert [t for t, one in told.items() if one["ttft_s"]] == list(range(WINDOW_S))


def test_the_second_under_way_is_not_told_and_since_leaves_out_what_was():
    history = History(0.0, UNIX)
    give(history, entry_of(), 1, 3.5)
    assert list(seconds_of(history, 3.9)) == [0, 1, 2]
    assert list(seconds_of(history, 4.0, since=UNIX + 1)) == [2, 3]
    assert history.body(0, 4.0)["now"] == UNIX + 4


def test_a_long_silence_costs_no_more_than_what_is_kept():
    history = History(0.0, UNIX)
    give(history, entry_of(), 1, 0.5)
    told = seconds_of(history, 1e7)
    assert list(told) == list(range(int(1e7) - KEEP_S, int(1e7)))
    assert not any(one["tokens"] or one["ttft_s"] for one in told.values())


def test_what_began_at_an_earlier_gateway_has_no_first_token_here():
    history, entry = History(0.0, UNIX), entry_of()
    entry.token_ids = [7] * 5
    give(history, entry, 1, 0.5)
    give(history, entry, 1, 0.7)
    told = seconds_of(history, 1.0)[0]
    assert told["ttft_s"] is None
    assert told["gap_s"] == pytest.approx([0.2, 0.2], rel=0.011)
