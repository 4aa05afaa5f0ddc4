"""Protects the answer time of a crowd: prompts that fit a step begin together, not one a step."""

from cluster_harness import cluster, greedy, prompt, record, run_all, tiny_checkpoint

from engine.core import Request


def test_prompts_that_fit_a_step_begin_in_it(tmp_path):
    llm = cluster(tiny_checkpoint(tmp_path), "pool.num_blocks=64", "scheduler.max_step_tokens=256")
    steps = record(llm.loops[0])
    for number in range(8):
        ids = tuple(prompt(20 + number, number))
        llm.submit(Request(request_id=str(number), prompt_ids=ids, sampling=greedy(3)))
    run_all(llm)
    assert [step.plan.num_rows for step in steps[:2]] == [sum(range(20, 28)), 8]
