"""Whether a recipe is one for chaos: all that is wrong with it at once."""

from engine.build import layout_of
from engine.chaos.schedule import KINDS
from engine.config import Config
from engine.errors import ConfigError
from engine.memory.base import region_bytes
from engine.memory.room import available_bytes
from engine.model.checkpoint import describe

LEAST_EVERY_S = 5.0
"""the supervisors give a role up that ends too often"""
PROCESS_BYTES = 700 << 20
"""about what an instance needs beside its pool"""


def check(config: Config) -> None:
    """Raises ConfigError with all that is wrong with the recipe for this verb."""
    wanted, problems = config.chaos, []
    if config.instances < 3:
        problems.append(
            f"instances is {config.instances}; chaos needs 3: a debtor, a creditor, a bystander"
        )
    unknown = [kind for kind in wanted.kinds if kind not in KINDS]
    if unknown or not wanted.kinds:
        problems.append(f"chaos.kinds={wanted.kinds}: choose from {', '.join(KINDS)}")
    if "partition" in wanted.kinds and config.transport.name != "tcp":
        problems.append(
            "chaos.kinds has partition, which cuts TCP only: set transport.name=tcp or leave it out"
        )
    if wanted.every_s < LEAST_EVERY_S or wanted.seconds < wanted.every_s:
        problems.append(
            f"chaos.every_s={wanted.every_s:g} must be at least {LEAST_EVERY_S:g} (a role that "
            f"ends too often is given up) and at most chaos.seconds={wanted.seconds:g}"
        )
    if min(wanted.contexts, wanted.long_tokens, wanted.short_tokens, wanted.max_tokens) < 1:
        problems.append("chaos.contexts, long_tokens, short_tokens and max_tokens are at least 1")
    if config.cluster.join or config.cluster.key_file:
        problems.append("chaos starts a cluster of its own: leave out cluster.join and key_file")
    if not problems:
        shape = describe(config.model.path, library=config.model.library).shape
        if wanted.long_tokens + wanted.max_tokens > shape.max_positions:
            problems.append(
                f"chaos.long_tokens + max_tokens is more than the model's {shape.max_positions} "
                "positions"
            )
        num_blocks = sum(config.pool.sizes) or config.instances * config.pool.num_blocks
        needed = region_bytes(layout_of(config, shape), num_blocks + 2 * config.pool.num_blocks)
        needed += (config.instances + 2) * PROCESS_BYTES
        there = available_bytes()
        if there is not None and there < needed:
            problems.append(
                f"{config.instances} instances and a guest need about {needed >> 20:,} MiB of "
                f"memory and {there >> 20:,} are there: lower instances or pool.num_blocks"
            )
    if problems:
        raise ConfigError(*problems)
