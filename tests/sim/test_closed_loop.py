"""Protects what the paper's evaluation adds to a workload: contexts, clients, ready prompts."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_performance import TIGHT, played

from engine.errors import ConfigError
from engine.scheduler.prices import TOKEN_S
from engine.sim.serving.config import WorkloadConfig
from engine.sim.serving.run import run
from engine.sim.serving.step_work import new_prompts
from engine.sim.serving.workload import Arrival, arrivals

CLOSED = WorkloadConfig(requests=40, clients=8, context_tokens=[100, 5000], output_tokens=[16, 200])


def test_contexts_are_drawn_between_their_ends_and_each_power_of_two_as_often():
    config = WorkloadConfig(requests=4000, context_tokens=[1000, 64000], output_tokens=[64, 1024])
    drawn = arrivals(config, 7)
    assert drawn == arrivals(config, 7) != arrivals(config, 8)
    contexts = [one.prompt_tokens + one.output_tokens for one in drawn]
    assert min(contexts) >= 1000
    assert max(contexts) <= 64000
    assert all(1 <= one.output_tokens <= one.prompt_tokens + 1 for one in drawn)
    half = len(contexts) // 2  # as drawn: not the short ones first
    assert sum(contexts[:half]) == pytest.approx(sum(contexts[half:]), rel=0.1)
    octaves = [math.floor(math.log2(context / 1000)) for context in contexts]
    for octave in range(6):
        assert octaves.count(octave) == pytest.approx(4000 / 6, rel=0.15)
    with pytest.raises(ConfigError, match="at least 1 token wanted"):
        arrivals(WorkloadConfig(context_tokens=[5, 2]), 0)


@pytest.mark.parametrize("name", ["vllm-multi", "greedy"])
def test_a_client_has_one_request_at_a_time_and_none_is_left_out(name):
    cluster = played(replace(TIGHT, workload=CLOSED), name, arrivals(CLOSED, 1))
    ended = cluster.front.ended
    assert len(ended) == CLOSED.requests
    assert not any(one.error for one in ended)
    moments = sorted(
        [(one.arrived, 1) for one in ended] + [(one.ended_at or 0.0, -1) for one in ended]
    )
    under_way, most = 0, 0
    for _, change in moments:  # ends of a moment come before what they let in
        under_way += change
        most = max(most, under_way)
    assert most == CLOSED.clients
    assert sum(one.arrived == 0.0 for one in ended) == CLOSED.clients


def test_the_bulk_leaves_out_the_last_few():
    """Twenty requests that end nearly at once, and one that goes on alone."""
    config = replace(TIGHT, instances=1, prefill=False)
    equal = [Arrival(0.0, 16, 100)] * 20
    found = run(config, "vllm-multi", equal)
    rate = found["tokens_per_s"]
    assert 0.9 * rate <= found["bulk_tokens_per_s"] <= 1.05 * rate
    late = run(config, "vllm-multi", [*equal, Arrival(20.0, 16, 100)])
    assert late["tokens_per_s"] < rate / 4
    assert 0.85 * rate <= late["bulk_tokens_per_s"] <= 1.05 * rate
    long = run(config, "vllm-multi", [*equal, Arrival(0.0, 16, 1000)])
    assert long["bulk_tokens_per_s"] == pytest.approx(long["tokens_per_s"])


def test_a_ready_prompt_takes_no_time_but_its_room():
    """A prompt of 7000 tokens leaves no room for another in a pool of 7680."""
    config = replace(TIGHT, instances=1, prefill=False)
    requests = [Arrival(0.0, 7000, 50), Arrival(0.0, 7000, 50)]
    whole = run(replace(config, prefill=True), "vllm-multi", requests)
    ready = run(config, "vllm-multi", requests)
    assert whole["answered"] == ready["answered"] == 2
    step_s = ready["tpot_s"]["p50"]
    assert ready["ttft_s"]["p50"] < whole["ttft_s"]["p50"] / 2
    assert ready["seconds"] >= 2 * 49 * step_s
    assert ready["seconds"] == pytest.approx(2 * 50 * step_s, rel=0.5)


def test_a_ready_prompt_is_where_its_blocks_are():
    """A context of two pools: its keys are neither computed nor moved."""
    config = replace(TIGHT, instances=3)
    requests = [Arrival(0.0, 15000, 50)]
    whole = run(config, "ledger", requests)
    ready = run(replace(config, prefill=False), "ledger", requests)
    assert whole["answered"] == ready["answered"] == 1
    assert whole["moved_blocks"] > 0
    assert ready["moved_blocks"] == 0
    assert ready["loans"] > 0
    assert ready["ttft_s"]["p50"] < ready["tpot_s"]["p50"] < whole["ttft_s"]["p50"]


def test_only_prompts_that_nobody_has_computed_are_ready():
    """Who was preempted has output already; who was handed over is a second attempt."""

    def sequence(number: int, *, attempt: int = 1, num_output: int = 0, is_prefill: bool = True):
        request = SimpleNamespace(request_id=f"7#0.{attempt}")
        return SimpleNamespace(
            number=number, request=request, num_output=num_output, is_prefill=is_prefill
        )

    running = [
        sequence(1),
        sequence(2, attempt=2),
        sequence(3, attempt=11),
        sequence(4, num_output=5),
        sequence(5, is_prefill=False),
    ]
    assert new_prompts(SimpleNamespace(running=running)) == {1}
    config = replace(TIGHT, instances=1, prefill=False, pool_blocks=20)
    requests = [Arrival(0.0, 600, 600), Arrival(0.0, 500, 600)]
    found = run(config, "vllm-multi", requests)
    assert found["answered"] == 2
    assert found["recomputed_tokens"] > 0


def test_prompts_that_are_there_teach_nothing_of_what_a_prompt_takes():
    config = replace(TIGHT, instances=1, pool_blocks=20)
    requests = [Arrival(0.0, 600, 100)]
    there, computed = (
        played(replace(config, prefill=prefill), "vllm-multi", requests).instances[0]
        for prefill in (False, True)
    )
    assert there.scheduler.prices.compute_s(1) == TOKEN_S
    assert computed.scheduler.prices.compute_s(1) < TOKEN_S
