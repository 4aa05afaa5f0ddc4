"""Protects ``bench.validation``: both sides run the same thing, differences are of medians."""

from pathlib import Path

import pytest

from bench.cluster import SETTINGS, WORKLOADS
from bench.validation import POOLS, Spare, as_simulated, compared
from engine.config import load
from engine.sim.serving.workload import arrivals


def facts(rate: float, ttft: float, p99: float) -> dict:
    spread = {"p50": ttft, "p99": p99}
    return {"tokens_per_s": rate, "ttft_s": spread, "tpot_s": spread}


def test_differences_are_of_medians_and_limits_of_the_spread():
    real = [facts(100, 1.0, 2.0), facts(110, 1.0, 4.0), facts(120, 1.2, 2.5)]
    found = {one["figure"]: one for one in compared(real, facts(132, 1.3, 4.2))}
    assert found["tokens/s"]["difference"] == pytest.approx(0.2)
    assert found["tokens/s"]["is_met"]
    assert not found["TTFT p50"]["is_met"]
    p99 = found["TTFT p99"]
    assert (p99["difference"], p99["limit"]) == (pytest.approx(0.68), pytest.approx(0.8))
    assert p99["is_met"]


@pytest.mark.parametrize("workload", POOLS)
def test_the_simulator_gets_what_the_instances_get(workload):
    config = load(None, [*SETTINGS, f"pool.num_blocks={POOLS[workload]}"])
    trace = WORKLOADS / f"{workload}.csv"
    simulated = as_simulated(config, Path("machine.yaml"), trace)
    assert simulated.pool_blocks == config.pool.num_blocks
    assert simulated.scheduler == config.scheduler
    assert simulated.lending == config.pool.lending
    requests = arrivals(simulated.workload, 0)
    assert {one.instance for one in requests} == {0, 1}
    assert len(requests) == len(trace.read_text().splitlines()) - 1
    longest = max(one.prompt_tokens + one.output_tokens for one in requests)
    assert longest <= config.pool.num_blocks * config.pool.block_tokens


def test_what_others_take_is_a_share():
    assert 0.0 <= Spare().taken() <= 1.0
