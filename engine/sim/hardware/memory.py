"""How many rBlocks an instance's pool has: its devices' memory less weights and working room."""

from engine.errors import ConfigError
from engine.sim.hardware.model import Model
from engine.sim.hardware.profile import Profile

UTILISATION = 0.9
"""share of the memory that is used; vLLM's default gpu_memory_utilization"""
ACTIVATION_BYTES = 1.5e9
"""assumption: activations, workspaces and graphs of one rank"""


def num_blocks(profile: Profile, model: Model, tp: int, block_tokens: int) -> int:
    """Blocks of a pool. Raises ConfigError, with the arithmetic, where the model does not fit."""
    have = UTILISATION * profile.device.memory_bytes * tp
    weights, working = float(model.weight_bytes), ACTIVATION_BYTES * tp
    copies = max(1.0, tp / model.num_kv_heads)  # more ranks than KV heads hold copies
    block = model.kv_token_bytes * block_tokens * copies
    blocks = int((have - weights - working) // block)
    if blocks < 2:
        raise ConfigError(
            f"tp={tp}: {have / 1e9:.1f} GB usable, {weights / 1e9:.1f} GB of weights and "
            f"{working / 1e9:.1f} GB of working room leave no room for 2 blocks of "
            f"{block / 1e9:.3f} GB; use a larger tp"
        )
    return blocks
