"""Systems: lending by the name of its placement, and what it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.errors import ConfigError
from engine.scheduler import PLACEMENTS
from engine.sim.hardware.step_time import Way
from engine.sim.serving.config import ServingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    placement: str
    way: Way = "query"
    is_single: bool = False
    """one instance over all devices"""
    hand_over: bool = True
    """a sequence that must give way may go on at another instance"""


BASELINES: Mapping[str, System] = {
    "vllm-multi": System(placement="local_only", hand_over=False),
    "vllm-single": System(placement="local_only", is_single=True, hand_over=False),
    "kv-moving": System(placement="ledger", way="fetch"),
}


def system_of(name: str) -> System:
    """A baseline, or lending with a placement. Raises ConfigError."""
    if name in BASELINES:
        return BASELINES[name]
    try:
        PLACEMENTS.load(name)
    except ConfigError as error:
        known = ", ".join([*BASELINES, *PLACEMENTS.names()])
        raise ConfigError(f"unknown system {name!r}; known: {known}") from error
    return System(placement=name)


def configured(config: ServingConfig, system: System) -> ServingConfig:
    """The recipe as this system runs it."""
    if system.is_single:
        config = replace(config, instances=1, tp=config.instances * config.tp, pool_blocks=0)
    hand_over = config.scheduler.hand_over and system.hand_over
    return replace(config, scheduler=replace(config.scheduler, hand_over=hand_over))
