"""Protects what a workload's objectives count, and what a limit for next tokens does for them."""

from dataclasses import replace

import pytest
from test_performance import TIGHT

from engine.sim.serving.run import run
from engine.sim.serving.workload import Arrival

ALONE = replace(TIGHT, instances=1, pool_blocks=0, tpot_s=0.03)
STREAMS = [Arrival(0.0, 100, 200)] * 4


def test_who_comes_too_late_or_is_refused_is_no_part_of_what_was_in_time():
    config = replace(TIGHT, instances=1, ttft_s=10.0, tpot_s=1.0)
    found = run(config, "vllm-multi", [Arrival(0.0, 100, 30), Arrival(0.0, 9000, 10)])
    assert found["refused"] == 1
    assert found["met_share"] == 0.75
    late = run(replace(config, ttft_s=1e-4), "vllm-multi", STREAMS)
    assert (late["met_share"], late["goodput"]) == (0, 0)


def test_with_a_limit_answers_go_on_in_time_beside_a_long_prompt():
    requests = [*STREAMS, Arrival(0.5, 60_000, 4)]
    wide = replace(ALONE.scheduler, max_step_tokens=2048)
    free = run(replace(ALONE, scheduler=wide), "vllm-multi", requests)
    limited = run(
        replace(ALONE, scheduler=replace(wide, max_tpot_s=ALONE.tpot_s)), "vllm-multi", requests
    )
    assert free["tpot_s"]["p90"] > 1.5 * ALONE.tpot_s
    assert limited["tpot_s"]["p90"] < 1.05 * ALONE.tpot_s
    assert limited["met_share"] > free["met_share"]
    assert limited["answered"] == free["answered"] == 5
    assert limited["seconds"] == pytest.approx(free["seconds"], rel=0.6)
