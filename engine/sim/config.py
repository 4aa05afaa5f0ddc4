"""What a simulation does; its recipe is checked like any other."""

from dataclasses import dataclass, field

KINDS = (
    "kill_step",
    "kill_pool",
    "kill_planner",
    "kill_gateway",
    "freeze_step",
    "freeze_pool",
    "slow",
    "partition",
    "evacuate",
    "join",
    "strain",
    "misadvise",
    "cancel",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimConfig:
    """Seconds are virtual; the same seed gives the same history."""

    mode: str = "faults"
    """performance: another tree of options (serving/config.py)"""
    seeds: int = 20
    first_seed: int = 0
    workers: int = 2
    """processes that run histories side by side"""
    instances: int = 8
    block_tokens: int = 4
    pool_blocks: list[int] = field(default_factory=lambda: [6, 12, 16, 24])
    """smallest pool, and sizes of which each history draws its largest"""
    requests: int = 40
    prompt_tokens: list[int] = field(default_factory=lambda: [4, 160])
    output_tokens: list[int] = field(default_factory=lambda: [4, 60])
    prefix_share: float = 0.6
    """of the requests: they begin with one of a few common prefixes"""
    salt_share: float = 0.3
    """of the requests: they have one of two salts"""
    arrive_s: float = 7.0
    """all requests come within so long"""
    period_s: float = 0.0
    """after so long, again and again, the cluster comes to rest; 0: only at the end"""
    pause_s: float = 0.0
    """of each period, its last so many seconds without new requests, and half without faults"""
    placements: list[str] = field(default_factory=lambda: ["ledger", "greedy", "balanced"])
    """one is drawn for each history"""
    lease_s: list[float] = field(default_factory=lambda: [0.3, 0.9, 2.0])
    """one is drawn for each history, as are these"""
    recall_s: list[float] = field(default_factory=lambda: [0.01, 0.1, 0.4])
    min_residence_s: float = 0.05
    wait_s: float = 0.5
    """a step waits so long for a holder"""
    drift: float = 0.05
    """clocks run faster or slower by up to this share"""
    faults: int = 32
    """in each history"""
    fate_share: float = 0.33
    """a message that meets a receiver in a state for the first time is lost so often, and delayed
    so often; less and less from then on"""
    ambush_share: float = 1.0
    """the first message of its kind waits so often for the state it has met least"""
    fault_s: float = 12.0
    """the last one begins before this"""
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    replay: str = ""
    """an event log (cluster.event_log) to run again instead of simulating"""
    limit_s: float = 400.0
    """what is not answered by then never will be"""
