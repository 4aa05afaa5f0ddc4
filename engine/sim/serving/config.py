"""What a performance simulation runs; its recipe is checked like any other."""

from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.memory.lending import Lending
from engine.scheduler.gmanager import GManager
from engine.scheduler.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadConfig:
    """Requests with their arrivals: replayed from a trace, or drawn."""

    trace: str = ""
    """a CSV or JSONL file, may be gzipped, with arrival_s, prompt_tokens and output_tokens (without
    arrival_s it is a list of lengths) and, where clients choose it, instance; empty: lengths are
    drawn"""
    requests: int = 1000
    """the first so many of a trace; so many that are drawn"""
    prompt_tokens: list[int] = field(default_factory=lambda: [64, 2048])
    """from, to: drawn between them, each power of two as often as the next"""
    output_tokens: list[int] = field(default_factory=lambda: [64, 512])
    context_tokens: list[int] = field(default_factory=list)
    """from, to of prompt and output together, drawn so in place of the prompt's; an output is as
    drawn, but at most half of it"""
    rate: float = 0.0
    """mean requests a second, of a Poisson process; 0: a trace's own times, else all at once"""
    clients: int = 0
    """closed loop: so many requests are unanswered while there are more; 0: open loop"""
    max_tokens: int = 0
    """leave out requests of more tokens in all; 0: none"""

    def __post_init__(self) -> None:
        if self.requests < 1 or min(self.rate, self.clients, self.max_tokens) < 0:
            raise ConfigError(
                "workload: requests must be at least 1; rate, clients and max_tokens at least 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """Seconds are virtual."""

    mode: str = "performance"
    model: str = "llama2-7b"
    """a known name, or a Hugging Face folder or config.json"""
    hardware: str = "a100-80gb"
    """a known name, or a YAML file that lendkv profile wrote"""
    hardware_changes: dict[str, Any] = field(default_factory=dict)
    """values of the profile to be others, such as {inter: {bandwidth: 15.6e6}}"""
    instances: int = 4
    tp: int = 1
    """devices of an instance"""
    systems: list[str] = field(
        default_factory=lambda: ["vllm-multi", "vllm-single", "kv-moving", "balanced"]
    )
    """run in turn on the same requests: a placement's name for lending with it, or one of those"""
    placement_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """by placement"""
    block_tokens: int = 128
    pool_blocks: int = 0
    """of each instance; 0: what its devices' memory leaves"""
    scheduler: Scheduler.Config = field(
        default_factory=lambda: Scheduler.Config(
            max_step_tokens=2048, max_num_seqs=256, grow_blocks=1, prefix_caching=False
        )
    )
    lending: Lending.Config = field(default_factory=Lending.Config)
    planner: GManager.Config = field(default_factory=GManager.Config)
    prefill: bool = True
    """false: a prompt's keys are there at first as soon as they have room, at lenders too"""
    heartbeat_s: float = 0.2
    """between two reports of a pool; those of the other parties have the processes' own periods"""
    control_s: float = 0.0
    """way of a control message, its handling included; 0: as the hardware's profile says, else half
    a millisecond"""
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    seed: int = 0
    ttft_s: float = 10.0
    """objective of the goodput: the longest wait for a request's first token"""
    tpot_s: float = 0.1
    """objective of the goodput: the longest mean time of a request's later tokens"""
    limit_s: float = 1e6
    """the simulation ends here, whatever is still unanswered"""
    strides: bool = True
    """run steps that change nothing but tokens and times as one; false: each by itself"""

    def __post_init__(self) -> None:
        if min(self.instances, self.tp, self.block_tokens) < 1 or self.pool_blocks < 0:
            raise ConfigError("instances, tp and block_tokens: at least 1; pool_blocks: at least 0")
        if min(self.heartbeat_s, self.limit_s) <= 0 or self.control_s < 0:
            raise ConfigError("heartbeat_s and limit_s must be above 0, control_s not below it")
