"""balanced against greedy with tuned thresholds, on seeds that neither was tuned on.

recipes/paper/tuning.yaml fixes the objectives, the grid, the seeds and the workloads.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from omegaconf import OmegaConf

from bench.paper import setup
from bench.paper.results import Results
from bench.paper.runs import figures
from engine.sim.serving.config import ServingConfig


@dataclass(frozen=True, slots=True)
class Tuning:
    """recipes/paper/tuning.yaml"""

    model: str
    instances: int
    ttft_s: float
    tpot_s: float
    tuning_seeds: Sequence[int]
    held_out_seeds: Sequence[int]
    grid: Mapping[str, Sequence[float]]
    workloads: Mapping[str, Sequence[float]]
    wanted: Mapping[str, float]

    @property
    def points(self) -> Iterator[dict[str, float]]:
        """greedy's thresholds, each with each."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def tuning() -> Tuning:
    raw: Any = OmegaConf.to_container(OmegaConf.load(setup.RECIPES / "tuning.yaml"))
    return Tuning(**raw)


def run(results: Results, *, quick: bool) -> None:
    how = tuning()
    if quick:  # the whole grid on the smallest workload would say little
        one(results, how, "3", how.tuning_seeds[0], "balanced", {})
        return
    for seed, point, trace in product(how.tuning_seeds, how.points, how.workloads):
        one(results, how, trace, seed, "greedy", point)
    best = best_point(results.values, how)
    for seed, trace in product(how.held_out_seeds, how.workloads):
        one(results, how, trace, seed, "greedy", best)
        for system in ("balanced", "vllm-multi"):
            one(results, how, trace, seed, system, {})


def one(
    results: Results, how: Tuning, trace: str, seed: int, system: str, options: Mapping[str, float]
) -> None:
    config = config_of(how, trace, seed)
    if options:
        config = replace(config, placement_options={system: dict(options)})
    name = name_of(trace, seed, system, options)
    results.get(name, partial(figures, config, system, setup.drawn(config)))


def config_of(how: Tuning, trace: str, seed: int) -> ServingConfig:
    requests, rate = how.workloads[trace]
    config = setup.of_instances(setup.cluster(how.model), how.instances)
    config = setup.closed_loop(config, setup.traces().ranges[trace], prefill=True)
    workload = replace(config.workload, clients=0, requests=int(requests), rate=float(rate))
    scheduler = replace(config.scheduler, max_tpot_s=float(how.tpot_s))
    return replace(
        config,
        workload=workload,
        scheduler=scheduler,
        seed=seed,
        ttft_s=float(how.ttft_s),
        tpot_s=float(how.tpot_s),
    )


def name_of(trace: str, seed: int, system: str, options: Mapping[str, float]) -> str:
    said = ",".join(f"{key}={value:g}" for key, value in options.items())
    return f"tuning/{trace}/{seed}/{system}" + (f"/{said}" if said else "")


def best_point(values: Mapping[str, Any], how: Tuning) -> dict[str, float]:
    """The thresholds of the best geometric mean of goodput; the first of equals."""

    def mean(point: dict[str, float]) -> float:
        found = [
            values[name_of(trace, seed, "greedy", point)]["goodput"]
            for trace, seed in product(how.workloads, how.tuning_seeds)
        ]
        return geometric_mean(found)

    return max(how.points, key=mean)


def ratios(values: Mapping[str, Any], how: Tuning, against: str = "greedy") -> dict[str, float]:
    """balanced's goodput by trace and held-out seed, against another's; empty before it was run."""
    try:
        options = best_point(values, how) if against == "greedy" else {}
        return {
            f"{trace}/{seed}": _ratio(
                values[name_of(trace, seed, "balanced", {})]["goodput"],
                values[name_of(trace, seed, against, options)]["goodput"],
            )
            for trace, seed in product(how.workloads, how.held_out_seeds)
        }
    except KeyError:
        return {}


def _ratio(ours: float, theirs: float) -> float:
    """Two that answer nothing in time are equal."""
    if theirs:
        return ours / theirs
    return math.inf if ours else 1.0


def geometric_mean(values: Sequence[float]) -> float:
    """0 where one of them is; what is infinite says nothing of how much and is left out."""
    finite = [value for value in values if value != math.inf]
    if not finite or min(finite) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, finite)) / len(finite))
