"""What a step counts of remote attention is what its plans say, in Python and natively."""

from collections import Counter

import pytest
from cluster_harness import cluster, greedy, prompt, record, run_all, tiny_checkpoint

from engine.core import Request

LENT = ["placement.name=placements_for_tests:Drawn", "placement.options.instances=[1,1,2]"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["query", "mapped"])
def test_counts_are_those_of_the_plans(tmp_path, dtype, way):
    llm = cluster(
        tiny_checkpoint(tmp_path, dtype),
        "instances=3",
        f"model.dtype={dtype}",
        f"attention.options.way={way}",
        *LENT,
    )
    steps = record(llm.loops[0])
    request = Request(request_id="a", prompt_ids=tuple(prompt(60)), sampling=greedy(12))
    answer = llm.submit(request)
    run_all(llm)
    load = llm.loops[0].accounts.load(0.0)
    spans = [span for ran in steps for span in ran.plan.spans]
    remote = [{ref.instance for ref in span.table if ref.loan} for span in spans]
    reads = sum(1 for span in spans for ref in span.table if ref.loan)
    assert load.counts["block_reads"] == reads > 0
    tokens = load.histograms["step_tokens"]
    assert sum(tokens.counts) == len(steps)
    assert tokens.total == sum(ran.plan.num_rows for ran in steps) == 60 + 12 - 1
    trips = load.histograms["trip_s"]
    asked = way == "query"
    assert sum(trips.counts) == (sum(map(len, remote)) if asked else 0)
    assert (trips.total > 0) is asked
    life = answer.report.life
    assert life.trip_s.keys() == (set().union(*remote) if asked else set())
    assert all(0 < seconds < 60 for seconds in life.trip_s.values())

    whats = Counter(moment.what for moment in life.moments)
    assert [m.what for m in life.moments][:2] == ["queued", "borrowed"]
    assert whats["started"] == whats["first_token"] == whats["ended"] == 1
    computed = [moment for moment in life.moments if moment.what == "computed"]
    assert sum(moment.amount for moment in computed) == 60
    moved = sum(moment.amount for moment in life.moments if moment.what == "moved")
    assert load.counts["moved"] == moved == len([h for h in answer.report.holders if h])
    times = [moment.at_s for moment in life.moments]
    assert times == sorted(times)
