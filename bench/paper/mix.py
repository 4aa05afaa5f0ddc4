"""Eighteen data sets in one mix, closed loop, prompts' keys there: the paper's first version's."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from bench.paper import setup
from bench.paper.results import Results
from bench.paper.runs import figures, rate

SYSTEMS = ("vllm-multi", "vllm-single", "ledger")
SAMPLE = 2000
"""requests whose mean says how many fill the memory"""


def run(results: Results, *, quick: bool) -> None:
    how = setup.traces()
    for model in setup.MODELS[:1] if quick else setup.MODELS:
        config = setup.cluster(model)
        tokens = config.instances * setup.pool_blocks(config) * config.block_tokens
        sample = setup.datasets(SAMPLE)
        mean = sum(one.prompt_tokens + one.output_tokens for one in sample) / SAMPLE
        clients = round(how.clients * tokens / mean)
        requests = setup.datasets(max(how.min_requests, round(how.rounds * clients)))
        workload = replace(config.workload, clients=clients, requests=len(requests))
        config = replace(config, workload=workload)
        for system in SYSTEMS:
            results.get(name_of(model, system), partial(figures, config, system, requests))


def name_of(model: str, system: str) -> str:
    return f"datasets/decode/{model}/{system}"


def ratios(values: Mapping[str, Any], system: str, against: str) -> dict[str, float]:
    """By model, of those that were run."""
    found = {}
    for model in setup.MODELS:
        ours, theirs = (values.get(name_of(model, one)) for one in (system, against))
        if ours and theirs and rate(theirs):
            found[model] = rate(ours) / rate(theirs)
    return found
