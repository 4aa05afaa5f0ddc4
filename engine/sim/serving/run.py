"""One system's run over a workload, and the verb ``simulate`` for recipes of this mode."""

import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.sim.recipes import load_as
from engine.sim.serving.cluster import Cluster
from engine.sim.serving.config import ServingConfig
from engine.sim.serving.figures import Lent, figures, table
from engine.sim.serving.systems import configured, system_of
from engine.sim.serving.workload import Arrival, arrivals

GARBAGE = 200_000
"""objects more than at the last look, before cycles are looked for"""


def run(config: ServingConfig, name: str, requests: Sequence[Arrival]) -> dict[str, Any]:
    """The figures of one system. Raises ConfigError."""
    system = system_of(name)
    cluster = Cluster(configured(config, system), system)
    lent = Lent()
    cluster.start(requests)
    lent.look(cluster)
    with _garbage_left():
        cluster.clock.run(config.limit_s)
    return figures(name, config, cluster, lent, len(requests))


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Hardly anything of a run is a cycle: to look for some takes a seventh of its time."""
    before = gc.get_threshold()
    gc.set_threshold(GARBAGE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def simulate(recipe: str | None, overrides: Sequence[str], *, json_only: bool) -> int:
    """Each system of the recipe on the same requests. Raises ConfigError."""
    config = load_as(ServingConfig, recipe, overrides)
    for name in config.systems:  # what is wrong is said before anything runs
        system = system_of(name)
        Cluster(configured(config, system), system)
    requests = arrivals(config.workload, config.seed)
    found = []
    for name in config.systems:
        began = time.monotonic()
        found.append(run(config, name, requests))
        if not json_only:
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    if json_only:
        print(json.dumps(found))
        return 0
    print(table(found))
    return 0
