"""Throughput and latency over the rate of requests, in an open loop; prompts are computed.

Columns are the short traces by falling spread of their lengths, rows are numbers of instances.
"""

from dataclasses import replace
from functools import partial

from bench.paper import setup
from bench.paper.results import Results
from bench.paper.runs import figures

SYSTEMS = ("vllm-multi", "greedy", "balanced")
MODEL = "llama2-7b"
TRACES = ("2", "1", "0")
INSTANCES = (4, 16)
SHARES = (0.4, 0.6, 0.8)
"""of the rate at which the memory of all instances would be full of requests that never wait"""
STAY_S = 14.0
"""assumption: mean seconds in which a decode of mean length is answered by a full instance"""
PER_INSTANCE = 20
"""requests"""


def full_rate(instances: int, trace: str) -> float:
    """Requests a second."""
    config = setup.cluster(MODEL)
    tokens = setup.pool_blocks(config) * config.block_tokens
    return instances * tokens / setup.mean_tokens(setup.traces().ranges[trace]) / STAY_S


def run(results: Results, *, quick: bool) -> None:
    for instances in INSTANCES[:1] if quick else INSTANCES:
        for trace in TRACES[:1] if quick else TRACES:
            for share in SHARES[1:2] if quick else SHARES:
                config = setup.of_instances(setup.cluster(MODEL), instances)
                config = setup.closed_loop(config, setup.traces().ranges[trace], prefill=True)
                rate = share * full_rate(instances, trace)
                num = round(PER_INSTANCE * instances)
                workload = replace(config.workload, clients=0, rate=rate, requests=num)
                config = replace(config, workload=workload)
                requests = setup.drawn(config)
                for system in SYSTEMS:
                    name = f"rates/{instances}/{trace}/{share}/{system}"
                    results.get(name, partial(figures, config, system, requests))
