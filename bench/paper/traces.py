"""The nine traces on 32 A100, each model: lending against vllm-multi and vllm-single."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

from bench.paper import setup
from bench.paper.results import Results
from bench.paper.runs import figures, rate
from engine.sim.serving.config import ServingConfig

SYSTEMS = ("vllm-multi", "vllm-single", "greedy", "ledger", "balanced")
SETTINGS = ("decode", "whole")
"""prompts' keys are there at once; or they are computed"""
WHOLE = ("0", "2", "3", "5")
"""traces whose prompts are computed, on the first model: they tell the rest"""


def name_of(setting: str, model: str, trace: str, system: str) -> str:
    return f"traces/{setting}/{model}/{trace}/{system}"


def run(results: Results, *, quick: bool) -> None:
    how = setup.traces()
    for setting, model, trace in product(SETTINGS, setup.MODELS, reversed(how.ranges)):
        if quick and (setting, model) != ("decode", setup.MODELS[0]):
            continue
        if quick and trace not in ("2", "8"):
            continue
        if trace in wanted(setting, model):
            one(results, setting, model, trace)


def wanted(setting: str, model: str) -> Sequence[str]:
    """The traces that are run."""
    if setting == "decode":
        return list(setup.traces().ranges)
    return WHOLE if model == setup.MODELS[0] else ()


def one(results: Results, setting: str, model: str, trace: str) -> None:
    config = config_of(setting, model, trace)
    requests = setup.drawn(config)
    for system in SYSTEMS if setting == "decode" else SYSTEMS[:3]:
        name = name_of(setting, model, trace, system)
        results.get(name, partial(figures, config, system, requests))


def config_of(setting: str, model: str, trace: str) -> ServingConfig:
    bounds = setup.traces().ranges[trace]
    return setup.closed_loop(setup.cluster(model), bounds, prefill=setting == "whole")


def ratios(values: dict[str, Any], setting: str, system: str, against: str) -> dict[str, float]:
    """By model/trace, of those that were run."""
    found = {}
    for model in setup.MODELS:
        for trace in setup.traces().ranges:
            ours, theirs = (
                values.get(name_of(setting, model, trace, one)) for one in (system, against)
            )
            if ours and theirs and rate(theirs):
                found[f"{model}/{trace}"] = rate(ours) / rate(theirs)
    return found
