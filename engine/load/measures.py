"""From outcomes to figures, under the names of ``vllm bench serve``. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.load.options import METRICS
from engine.load.outcome import Outcome


def figures(
    outcomes: Sequence[Outcome],
    *,
    percentiles: Sequence[float],
    objectives: Mapping[str, float],
) -> dict[str, Any]:
    """All of the result's JSON that was measured.

    ``{mean,median,std,pXX}_{ttft,tpot,itl,e2el}_ms`` are over completed requests (over all their
    gaps for itl; tpot leaves out answers of one token), 0 when there are none. ``objectives`` are
    milliseconds by name; goodput counts the requests that meet all of them, each second.
    """
    done = [outcome for outcome in outcomes if outcome.completed]
    seconds = max((outcome.ended for outcome in outcomes), default=0.0)
    num_input = sum(outcome.num_prompt for outcome in done)
    num_output = sum(outcome.num_output for outcome in done)
    good = sum(meets(outcome, objectives) for outcome in done)
    lateness = [1000 * (outcome.woken - outcome.due) for outcome in outcomes]
    found: dict[str, Any] = {
        "duration": seconds,
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "request_throughput": _rate(len(done), seconds),
        "request_goodput": _rate(good, seconds) if objectives else None,
        "output_throughput": _rate(num_output, seconds),
        "total_token_throughput": _rate(num_input + num_output, seconds),
        "max_output_tokens_per_s": peak_tokens(done),
        "max_concurrent_requests": peak_concurrency(outcomes),
        "p99_send_delay_ms": _percentile(lateness, 99),
    }
    tpots = [outcome.tpot for outcome in done]
    series = {
        "ttft": [outcome.ttft for outcome in done],
        "tpot": [tpot for tpot in tpots if tpot is not None],
        "itl": [gap for outcome in done for gap in outcome.itls],
        "e2el": [outcome.e2el for outcome in done],
    }
    for name in METRICS:
        ms = [1000 * value for value in series[name]]
        found[f"mean_{name}_ms"] = float(np.mean(ms)) if ms else 0.0
        found[f"median_{name}_ms"] = _percentile(ms, 50)
        found[f"std_{name}_ms"] = float(np.std(ms)) if ms else 0.0
        for percentile in percentiles:
            found[f"p{percentile:g}_{name}_ms"] = _percentile(ms, percentile)
    return found


def details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The part with one entry a request, in seconds; a failed one has 0, no gaps and an error."""
    return {
        "input_lens": [outcome.num_prompt for outcome in outcomes],
        "output_lens": [outcome.num_output if outcome.completed else 0 for outcome in outcomes],
        "start_times": [outcome.sent for outcome in outcomes],
        "ttfts": [outcome.ttft if outcome.completed else 0.0 for outcome in outcomes],
        "itls": [outcome.itls if outcome.completed else [] for outcome in outcomes],
        "latencies": [outcome.e2el if outcome.completed else 0.0 for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }


def meets(outcome: Outcome, objectives: Mapping[str, float]) -> bool:
    """Whether a completed request is within all objectives, in ms. One token takes a tpot of 0."""
    values = {"ttft": outcome.ttft, "tpot": outcome.tpot or 0.0, "e2el": outcome.e2el}
    return all(1000 * values[name] <= limit for name, limit in objectives.items())


def peak_tokens(done: Sequence[Outcome]) -> float:
    """Most tokens in one second, counted in whole seconds from the start.

    An answer's tokens are spread evenly over its chunks: which came with which is not told.
    """
    buckets: dict[int, float] = {}
    for outcome in done:
        for at in outcome.times:
            share = outcome.num_output / len(outcome.times)
            buckets[int(at)] = buckets.get(int(at), 0.0) + share
    return max(buckets.values(), default=0.0)


def peak_concurrency(outcomes: Sequence[Outcome]) -> int:
    """Most requests under way at one time; one that ends when another begins is over."""
    edges = [(outcome.sent, 1) for outcome in outcomes]
    edges += [(outcome.ended, -1) for outcome in outcomes]
    now = most = 0
    for _, change in sorted(edges):
        now += change
        most = max(most, now)
    return most


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds else 0.0


def _percentile(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile)) if values else 0.0
