"""What a recipe says of an instance's scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    max_step_tokens: int = 256
    """query tokens in one step: decodes first, the rest for prefill chunks"""
    max_num_seqs: int = 32
    grow_blocks: int = 4
    """blocks a running sequence draws or borrows at a time"""
    lease_s: float = 30.0
    retry_s: float = 0.1
    """a sequence that found no memory pauses twice this, then twice as long, up to 5 s"""
    sure_s: float = 3.0
    """a request that all pools together could not hold is refused when that has been so for so
    long: a planner or pool that was just restarted is not all there is"""
    hand_over: bool = True
    """a sequence that must give way may go on at another instance"""
    max_tpot_s: float = 0.0
    """a step with next tokens in it shall take no longer: prompts are read in shorter chunks beside
    them, and the own pool computes less for others; 0: no limit"""
    prefix_caching: bool = True
    """keep the keys of finished requests in memory that nobody needs, and use them again"""
