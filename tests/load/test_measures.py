"""Figures mean what users of ``vllm bench serve`` think they mean, for any outcomes."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.load.measures import details, figures, meets, peak_concurrency, peak_tokens
from engine.load.outcome import Outcome

seconds = st.floats(0, 100).map(lambda x: round(x, 4))


@st.composite
def outcomes(draw, failing=True):
    sent = draw(seconds)
    gaps = draw(st.lists(seconds, min_size=1, max_size=6))
    times, at = [], sent
    for gap in gaps:
        at += gap
        times.append(at)
    num_output = draw(st.integers(1, 20))
    outcome = Outcome(draw(st.integers(1, 50)), 0.0, 0.0, sent, times, at, num_output)
    if failing and draw(st.booleans()):
        outcome.error = "HTTP 503"
    return outcome


def by_hand(values, percentile):
    """The linear interpolation between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percentile / 100
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@given(some=st.lists(outcomes(), max_size=8), percentile=st.integers(0, 100))
def test_statistics_are_over_completed_requests(some, percentile):
    found = figures(some, percentiles=[percentile], objectives={})
    done = [one for one in some if not one.error]
    assert (found["completed"], found["failed"]) == (len(done), len(some) - len(done))
    series = {
        "ttft": [1000 * (one.times[0] - one.sent) for one in done],
        "e2el": [1000 * (one.times[-1] - one.sent) for one in done],
        "tpot": [
            1000 * (one.times[-1] - one.times[0]) / (one.num_output - 1)
            for one in done
            if one.num_output > 1
        ],
        "itl": [
            1000 * (b - a) for one in done for a, b in zip(one.times, one.times[1:], strict=False)
        ],
    }
    for name, values in series.items():
        if not values:
            assert {found[f"{key}_{name}_ms"] for key in ("mean", "median", "std")} == {0.0}
            continue
        close = {"rel": 1e-6, "abs": 1e-6}
        assert found[f"mean_{name}_ms"] == pytest.approx(statistics.fmean(values), **close)
        assert found[f"median_{name}_ms"] == pytest.approx(statistics.median(values), **close)
        assert found[f"std_{name}_ms"] == pytest.approx(statistics.pstdev(values), **close)
        expected = by_hand(values, percentile)
        assert found[f"p{percentile}_{name}_ms"] == pytest.approx(expected, **close)


@given(one=outcomes(failing=False))
def test_the_latencies_of_one_request_fit_together(one):
    assert one.ttft + sum(one.itls) == pytest.approx(one.e2el)
    if one.num_output > 1:
        assert one.ttft + one.tpot * (one.num_output - 1) == pytest.approx(one.e2el)
    else:
        assert one.tpot is None


@given(
    some=st.lists(outcomes(), max_size=8),
    limits=st.dictionaries(st.sampled_from(["ttft", "tpot", "e2el"]), st.floats(0, 2e5)),
)
def test_goodput_counts_who_meets_every_objective(some, limits):
    found = figures(some, percentiles=[99], objectives=limits)
    if not limits:
        assert found["request_goodput"] is None
        return

    def value(one, name):
        if name == "tpot" and one.num_output == 1:
            return 0.0
        return 1000 * {"ttft": one.ttft, "tpot": one.tpot, "e2el": one.e2el}[name]

    good = 0
    for one in some:
        if not one.error:
            within = all(value(one, name) <= limit for name, limit in limits.items())
            assert meets(one, limits) == within
            good += within
    if found["duration"]:
        assert found["request_goodput"] * found["duration"] == pytest.approx(good)
    assert found["request_goodput"] <= found["request_throughput"]


@given(some=st.lists(outcomes(), min_size=1, max_size=8))
def test_totals_and_rates_agree(some):
    found = figures(some, percentiles=[99], objectives={})
    done = [one for one in some if not one.error]
    assert found["total_input_tokens"] == sum(one.num_prompt for one in done)
    assert found["total_output_tokens"] == sum(one.num_output for one in done)
    if found["duration"]:
        total = found["total_input_tokens"] + found["total_output_tokens"]
        assert found["total_token_throughput"] * found["duration"] == pytest.approx(total)
        completed = found["request_throughput"] * found["duration"]
        assert completed == pytest.approx(found["completed"])
    most = peak_tokens(done)
    assert most <= sum(one.num_output for one in done) + 1e-9
    if done:
        assert most * (int(max(one.times[-1] for one in done)) + 1) >= sum(
            one.num_output for one in done
        ) * (1 - 1e-9)


@given(some=st.lists(outcomes(), max_size=8))
def test_peak_concurrency_is_reached_at_some_sending(some):
    at_sending = [sum(b.sent <= a.sent < b.ended for b in some) for a in some]
    lasting = [one for one in some if one.ended > one.sent]
    assert peak_concurrency(lasting) == max(
        (sum(b.sent <= a.sent < b.ended for b in lasting) for a in lasting), default=0
    )
    assert peak_concurrency(some) >= max(at_sending, default=0)


@given(some=st.lists(outcomes(), max_size=5))
def test_details_have_one_entry_a_request(some):
    for key, values in details(some).items():
        assert len(values) == len(some), key
    for one, ttft, error in zip(some, details(some)["ttfts"], details(some)["errors"], strict=True):
        assert error == one.error
        assert ttft == (0.0 if one.error else one.ttft)


def test_a_known_run():
    """Worked out by hand."""
    one = Outcome(10, 0.0, 0.0, 1.0, [1.5, 1.7, 2.1], 2.2, 5)
    two = Outcome(20, 2.0, 2.03, 2.0, [4.0], 4.0, 1)
    found = figures([one, two], percentiles=[50, 99.9], objectives={"ttft": 600, "tpot": 151})
    assert found["duration"] == 4.0
    assert found["mean_ttft_ms"] == pytest.approx((500 + 2000) / 2)
    assert found["mean_tpot_ms"] == pytest.approx(600 / 4)  # of the first alone
    assert found["mean_itl_ms"] == pytest.approx(300)
    assert found["p99.9_e2el_ms"] == pytest.approx(1100 + 0.999 * 900)
    assert found["request_goodput"] == pytest.approx(0.25)
    assert found["max_concurrent_requests"] == 2
    assert found["max_output_tokens_per_s"] == pytest.approx(2 * 5 / 3)
    assert found["p99_send_delay_ms"] == pytest.approx(0.99 * 30)
