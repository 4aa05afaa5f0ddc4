"""Recording: an event log for each life of a machine, where cluster.event_log names a folder.

``pool3.<epoch>.events``, ``step3.<epoch>.events``, ``planner.<life>.events``: no name comes twice.
"""

from pathlib import Path
from typing import Any

from engine.config import Config
from engine.events import Header, record
from engine.memory.base import MemoryPool
from engine.memory.events import PoolHeader
from engine.memory.rmanager import RManager
from engine.scheduler.events import StepHeader
from engine.scheduler.planner import Planner
from engine.scheduler.planner_events import PlannerHeader
from engine.scheduler.scheduler import Scheduler


def record_step(config: Config, scheduler: Scheduler, **parts: Any) -> None:
    if config.cluster.event_log:
        header = StepHeader(
            scheduler=config.scheduler,
            placement=config.placement.name,
            options=dict(config.placement.options),
            **parts,
        )
        _record(config, scheduler, header, f"step{header.instance}.{header.epoch}")


def record_pool(config: Config, rmanager: RManager, *, pool: MemoryPool, **parts: Any) -> None:
    if config.cluster.event_log:
        header = PoolHeader.of(config.pool.lending, pool=pool, **parts)
        _record(config, rmanager, header, f"pool{header.instance}.{header.epoch}")


def record_planner(config: Config, planner: Planner, *, life: int, **parts: Any) -> None:
    """``life``: another one of each process."""
    if config.cluster.event_log:
        header = PlannerHeader(
            planner=config.planner,
            placement=config.placement.name,
            options=dict(config.placement.options),
            **parts,
        )
        _record(config, planner, header, f"planner.{life}")


def _record(config: Config, machine: Any, header: Header, name: str) -> None:
    record(machine, header, Path(config.cluster.event_log) / f"{name}.events")
