"""What a plan is asked for; checked like any recipe."""

from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import ConfigError
from engine.scheduler.scheduler import Scheduler
from engine.sim.serving.config import ServingConfig, WorkloadConfig
from engine.sim.serving.systems import BASELINES, system_of

MAX_DEVICES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Of ``--sweep``: one plan for each value."""

    over: str = "devices"
    """the key whose values are tried, such as workload.rate"""
    values: list[Any] = field(default_factory=list)
    """empty: a quarter, half, once and twice the devices"""
    plot: str = "plan.png"
    """where the picture goes; empty: none is drawn"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Tokens, seconds, devices; the price's currency is the user's."""

    model: str = "llama2-7b"
    """a known name, or a Hugging Face folder or config.json"""
    hardware: str = "a100-80gb"
    """a known name, or a YAML file that lendkv profile wrote"""
    hardware_changes: dict[str, Any] = field(default_factory=dict)
    """values of the profile to be others"""
    devices: int = 0
    """GPUs, or cores of a measured machine; 0: the fewest that hold one context"""
    tp: int = 0
    """devices of an instance; 0: each power of two that fits is tried, the best is taken"""
    context: int = 0
    """tokens that one request must be able to have, prompt and answer; 0: the workload's longest"""
    lending: str = "balanced"
    """the placement that is held against instances which lend nothing"""
    workload: WorkloadConfig = field(default_factory=lambda: WorkloadConfig(requests=64))
    """left as it is, with a context: requests that are all so long, one after another"""
    ttft_s: float = 10.0
    """objective: the longest wait for a request's first token"""
    tpot_s: float = 0.1
    """objective: the longest mean time of a request's later tokens"""
    price: float = 0.0
    """of a device for an hour; 0: device hours are told instead of a cost"""
    block_tokens: int = 128
    scheduler: Scheduler.Config = field(default_factory=lambda: ServingConfig().scheduler)
    seed: int = 0
    simulate: bool = True
    """false: arithmetic and the hardware's model only"""
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.devices <= MAX_DEVICES:
            raise ConfigError(f"devices={self.devices}: 0 (the fewest) to {MAX_DEVICES} is allowed")
        if self.tp < 0 or (self.tp and self.devices % self.tp):
            raise ConfigError(
                f"tp={self.tp}: 0 (try all), or what divides devices={self.devices}, is allowed"
            )
        for name, least in (("context", 0), ("price", 0), ("block_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: {least} and more are allowed")
        for name in ("ttft_s", "tpot_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name):g} must be above 0")
        if self.lending in BASELINES or self.lending == "local_only":
            raise ConfigError(
                f"lending={self.lending} lends nothing; ledger, greedy and balanced do"
            )
        system_of(self.lending)

    def serving(self, tp: int, instances: int) -> ServingConfig:
        """What the simulator runs for it."""
        return ServingConfig(
            model=self.model,
            hardware=self.hardware,
            hardware_changes=self.hardware_changes,
            instances=instances,
            tp=tp,
            block_tokens=self.block_tokens,
            scheduler=self.scheduler,
            workload=self.workload,
            ttft_s=self.ttft_s,
            tpot_s=self.tpot_s,
            seed=self.seed,
        )


ANSWER_SHARE, MOST_ANSWER, FEW = 16, 512, 2
"""of a workload that is not given: a context's share that is answer, at most so many tokens, and
how many requests"""


def completed(config: PlanConfig) -> PlanConfig:
    """The workload that a context alone means, and the context that a workload means."""
    given = config.workload
    if config.context and given == WorkloadConfig(requests=64):
        answer = max(1, min(MOST_ANSWER, config.context // ANSWER_SHARE))
        prompt = max(1, config.context - answer)
        lengths = WorkloadConfig(
            requests=FEW, prompt_tokens=[prompt, prompt], output_tokens=[answer, answer]
        )
        return replace(config, workload=lengths)
    return config
