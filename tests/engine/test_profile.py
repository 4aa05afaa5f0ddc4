"""Protects the planner's first idea of a machine: timed steps of several kinds, no block lost."""

import pytest
from cluster_harness import BLOCK_TOKENS, assert_all_returned, cluster, greedy, prompt
from msgspec.structs import replace

from engine.protocol import Life
from engine.scheduler.performance import Performance


@pytest.mark.parametrize("num_blocks", [64, 8])
def test_it_times_few_and_many_rows_and_keys_and_gives_its_blocks_back(tiny, num_blocks):
    llm = cluster(tiny, f"pool.num_blocks={num_blocks}", "scheduler.max_step_tokens=4")
    samples = llm.loops[0].profile()
    kinds = {(sample.num_rows, sample.local_keys // sample.num_rows) for sample in samples}
    if num_blocks == 64:
        few = BLOCK_TOKENS
        assert kinds == {(1, few), (1, few * 64), (4, few), (4, few * 16), (16, few), (16, few * 4)}
    else:
        assert {rows for rows, _ in kinds} == {1, 4}, "16 rows need 16 blocks"
    assert all(sample.seconds > 0 and not sample.remote_keys for sample in samples)
    assert_all_returned(llm)
    cost = Performance()
    cost.learn(samples)
    assert cost.num_samples == len(samples)


def test_it_leaves_no_trace_in_what_comes_after(tiny):
    plain, profiled = cluster(tiny), cluster(tiny)
    profiled.loops[0].profile()
    answers = [llm.generate([prompt(40)], greedy(12))[0] for llm in (plain, profiled)]
    assert answers[0].token_ids == answers[1].token_ids
    # Its moments are times, which rounding tells apart.
    first, second = (replace(answer.report, life=Life()) for answer in answers)
    assert first == second
