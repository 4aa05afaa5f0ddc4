"""Setup: the paper's clusters, traces and data sets, as recipes/paper has them."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from engine.sim.hardware.memory import num_blocks
from engine.sim.hardware.model import model_of
from engine.sim.hardware.profile import profile_of
from engine.sim.recipes import load_as
from engine.sim.serving.config import ServingConfig, WorkloadConfig
from engine.sim.serving.workload import Arrival, arrivals

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
MODELS = ("llama2-7b", "llama2-13b", "llama2-70b")

CHUNK = 2048
"""rows of a step where prompts are computed"""

Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Traces:
    """recipes/paper/traces.yaml"""

    ranges: Mapping[str, Bounds]
    short: Sequence[str]
    output_tokens: Sequence[int]
    seed: int
    clients: float
    rounds: float
    min_requests: int


def cluster(model: str) -> ServingConfig:
    return load_as(ServingConfig, str(RECIPES / f"{model}.yaml"), [])


def traces() -> Traces:
    raw = _read("traces.yaml")
    ranges = {name: (low, high) for name, (low, high) in raw.pop("traces").items()}
    return Traces(ranges=ranges, **raw)


def of_instances(config: ServingConfig, instances: int) -> ServingConfig:
    return replace(config, instances=instances)


def pool_blocks(config: ServingConfig, tp: int = 0) -> int:
    """Of one instance."""
    profile, model = profile_of(config.hardware), model_of(config.model)
    return num_blocks(profile, model, tp or config.tp, config.block_tokens)


def mean_tokens(bounds: Bounds) -> float:
    """Of contexts of which each power of two is as often as the next."""
    low, high = bounds
    return (high - low) / math.log(high / low) if high > low else float(low)


def closed_loop(config: ServingConfig, bounds: Bounds, *, prefill: bool) -> ServingConfig:
    """More contexts wait than fit the memory of all instances."""
    how = traces()
    tokens = config.instances * pool_blocks(config) * config.block_tokens
    clients = max(1, round(how.clients * tokens / mean_tokens(bounds)))
    requests = max(how.min_requests, round(how.rounds * clients))
    workload = WorkloadConfig(
        requests=requests,
        clients=clients,
        context_tokens=list(bounds),
        output_tokens=list(how.output_tokens),
    )
    return replace(with_prefill(config, prefill), workload=workload, seed=how.seed)


def with_prefill(config: ServingConfig, prefill: bool) -> ServingConfig:
    """The recipes' prompts are there; computed ones come in smaller pieces."""
    if not prefill:
        return config
    return replace(config, prefill=True, scheduler=replace(config.scheduler, max_step_tokens=CHUNK))


def drawn(config: ServingConfig) -> list[Arrival]:
    return arrivals(config.workload, config.seed)


def datasets_shapes() -> dict[str, list[float]]:
    """Fewest, median and most tokens of each data set."""
    return dict(_read("datasets.yaml")["datasets"])


def datasets(num_requests: int) -> list[Arrival]:
    """So many requests of the mix in recipes/paper/datasets.yaml, all at 0."""
    raw = _read("datasets.yaml")
    chance = random.Random(raw["seed"])
    shapes = list(datasets_shapes().values())
    shortest, longest = raw["output_tokens"]
    found = []
    for _ in range(num_requests):
        prompt = _between(chance.choice(shapes), chance.random())
        output = shortest * (longest / shortest) ** chance.random()
        found.append(Arrival(0.0, round(prompt), round(output)))
    return found


def _between(shape: Sequence[float], share: float) -> float:
    """The quantile of a distribution given by its least, median and largest value."""
    least, median, most = shape
    if share < 0.5:
        return float(least * (median / least) ** (2 * share))
    return float(median * (most / median) ** (2 * share - 1))


def _read(name: str) -> dict[str, Any]:
    raw = OmegaConf.to_container(OmegaConf.load(RECIPES / name))
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}
