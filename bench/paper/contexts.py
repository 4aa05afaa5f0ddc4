"""The sweep of contexts: how long one may be, and what a cluster answers at each length.

All requests of a point have the same length and come at once: as many as the system's memory holds
(a few less where blocks of a sequence's tail and of copies take room). Prompts' keys are there.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from bench.paper import setup
from bench.paper.results import Results
from bench.paper.runs import figures
from engine.memory.lending import Lending
from engine.sim.hardware.model import model_of
from engine.sim.hardware.profile import profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.serving.config import ServingConfig
from engine.sim.serving.workload import Arrival

SYSTEMS = ("vllm-multi", "vllm-single", "greedy")
LABELS = ("1K", "16K", "half a pool", "past a pool", "half of all", "all")
OUTPUT = 256
SLACK_BLOCKS = 8
"""of a pool, that a sequence which borrows leaves free beside what a step's rows take"""
FILLED = 0.97
MANY = 8
"""contexts that a pool holds: then nothing is lent and each step is like the one before"""


def run(results: Results, *, quick: bool) -> None:
    for model in setup.MODELS[:1] if quick else setup.MODELS:
        config = setup.cluster(model)
        results.get(f"contexts/{model}/longest", partial(longest, config))
        for label, context in points(config).items():
            if quick and label not in ("past a pool", "all"):
                continue
            for system in SYSTEMS:
                name = f"contexts/{model}/{label}/{system}"
                results.get(name, partial(point, config, context, system))


def points(config: ServingConfig) -> dict[str, int]:
    """Contexts, ascending, by label."""
    pool, whole = pool_tokens(config), lending_tokens(config)
    contexts = (1000, 16000, pool // 2, pool + pool // 20, whole // 2, whole)
    return dict(zip(LABELS, contexts, strict=True))


def pool_tokens(config: ServingConfig) -> int:
    return setup.pool_blocks(config) * config.block_tokens


def single_tokens(config: ServingConfig) -> int:
    return setup.pool_blocks(config, config.tp * config.instances) * config.block_tokens


def lending_tokens(config: ServingConfig) -> int:
    """The longest context of a cluster that lends: a pool, and what the others may lend."""
    blocks, lending = setup.pool_blocks(config), Lending.Config()
    cap = min(int(lending.lend_fraction * blocks), blocks - lending.keep_blocks)
    borrowed = (config.instances - 1) * cap
    return (blocks - slack_blocks(config) + borrowed) * config.block_tokens


def slack_blocks(config: ServingConfig) -> int:
    return SLACK_BLOCKS + config.scheduler.max_step_tokens // config.block_tokens


def longest(config: ServingConfig) -> dict[str, Any]:
    """Tokens, by system; and of lending by number of instances, as shares of a pool."""
    pool = pool_tokens(config)
    sizes = [n for n in (2, 4, 8, 16, 32) if n <= config.instances]
    grown = {str(n): lending_tokens(replace(config, instances=n)) / pool for n in sizes}
    return {
        "vllm-multi": pool,
        "vllm-single": single_tokens(config),
        "lending": lending_tokens(config),
        "pools_by_instances": grown,
    }


def point(config: ServingConfig, context: int, system: str) -> dict[str, Any]:
    """Run, but where a pool holds many: there one step of a full batch says it all."""
    num = most_sequences(config, context, system)
    if not num:
        return {"num": 0, "tokens_per_s": 0.0}
    if context * MANY <= pool_tokens(config):
        return {"num": num, "tokens_per_s": num / _step_s(config, context, num, system)}
    requests = [Arrival(0.0, context - OUTPUT, OUTPUT)] * num
    found = figures(replace(config, prefill=False), system, requests)
    return {"num": num, **found}


def most_sequences(config: ServingConfig, context: int, system: str) -> int:
    """How many contexts of this length the memory of all instances holds."""
    if system == "vllm-single":
        return single_tokens(config) // context
    if system == "vllm-multi" or context * MANY <= pool_tokens(config):
        return config.instances * (pool_tokens(config) // context)
    return int(max(1.0, FILLED * lending_tokens(config) / context))


def _step_s(config: ServingConfig, context: int, num: int, system: str) -> float:
    instances = 1 if system == "vllm-single" else config.instances
    tp = config.tp * config.instances // instances
    rows = num // instances
    times = StepTime(profile_of(config.hardware), model_of(config.model), tp)
    return times.of(0, Work(rows, rows, Keys(rows, rows * context, rows * context))).seconds


def ratio(values: dict[str, Any], label: str, against: str) -> dict[str, float]:
    """greedy's tokens per second against a baseline's, by model."""
    found = {}
    for model in setup.MODELS:
        ours, theirs = (
            values.get(f"contexts/{model}/{label}/{one}", {}).get("tokens_per_s")
            for one in ("greedy", against)
        )
        if ours and theirs:
            found[model] = ours / theirs
    return found
