"""A simulated history whose machines write event logs: one for each life."""

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from engine.events import record
from engine.memory.events import PoolHeader
from engine.memory.rmanager import RManager
from engine.scheduler import PLACEMENTS
from engine.scheduler.events import StepHeader
from engine.scheduler.planner import Planner
from engine.scheduler.planner_events import PlannerHeader
from engine.scheduler.scheduler import Scheduler
from engine.sim import history
from engine.sim.config import SimConfig
from engine.sim.truth import SimMemory, layout_of

NAMES = {PLACEMENTS.load(name): name for name in PLACEMENTS.names()}


@dataclass
class Recorded:
    found: history.Found
    logs: dict[str, list[Path]] = field(default_factory=dict)
    """by kind of machine, the largest first"""


def recorded_history(folder, seed):
    """Machines record themselves as soon as they are made, whoever makes them."""
    opened, numbers = [], count()

    def watch(machine, kind, header_of):
        init = machine.__init__

        def made(self, config, **parts):
            init(self, config, **parts)
            header = header_of(config, **parts)
            opened.append(record(self, header, folder / f"{kind}.{next(numbers)}.events"))

        patch.setattr(machine, "__init__", made)

    def placed(placement):
        return {"placement": NAMES[type(placement)], "options": {}}

    with pytest.MonkeyPatch.context() as patch:
        watch(
            Scheduler,
            "step",
            lambda config, *, placement, **parts: StepHeader(
                scheduler=config, **placed(placement), **parts
            ),
        )
        watch(RManager, "pool", PoolHeader.of)
        watch(
            Planner,
            "planner",
            lambda config, *, placement, cost, **parts: PlannerHeader(
                planner=config, **placed(placement), **parts
            ),
        )
        recorded = Recorded(history.run(SimConfig(), seed))
    for log in opened:
        log.close()
    for kind in ("step", "pool", "planner"):
        paths = folder.glob(f"{kind}.*")
        recorded.logs[kind] = sorted(paths, key=lambda path: -path.stat().st_size)
    return recorded


def pool_header(memory=None):
    """Of a pool that lends all it has, to anybody of cluster ``sim``."""
    return PoolHeader.of(
        RManager.Config(lend_fraction=1.0, keep_blocks=0),
        pool=memory or SimMemory(layout_of(4), 8),
        instance=0,
        epoch=1,
        cluster="sim",
        kernel_fingerprint="sim",
    )
