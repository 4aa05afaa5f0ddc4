"""Room: what instances of so many devices hold, and how long a context can be in them."""

from dataclasses import dataclass

from engine.memory.lending import Lending
from engine.sim.hardware.memory import ACTIVATION_BYTES, UTILISATION, num_blocks
from engine.sim.hardware.model import Model
from engine.sim.hardware.profile import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """``instances`` of ``tp`` devices each, with pools of ``pool_blocks``."""

    tp: int
    instances: int
    pool_blocks: int
    block_tokens: int
    lendable_blocks: int
    """that each instance lends at most"""

    @property
    def devices(self) -> int:
        return self.tp * self.instances

    @property
    def pool_tokens(self) -> int:
        return self.pool_blocks * self.block_tokens

    @property
    def longest_alone(self) -> int:
        """Tokens of the longest context of an instance that borrows nothing."""
        return self.pool_tokens

    @property
    def longest_lending(self) -> int:
        """With all that all others may lend."""
        lent = (self.instances - 1) * self.lendable_blocks
        return (self.pool_blocks + lent) * self.block_tokens

    def blocks(self, context: int) -> int:
        return -(-context // self.block_tokens)

    def lenders(self, context: int) -> int:
        """Others that one context borrows from, at the least."""
        missing = max(0, self.blocks(context) - self.pool_blocks)
        return -(-missing // self.lendable_blocks)

    def own_and_lent(self, context: int) -> tuple[int, int]:
        """Tokens at home, and at each of its lenders, which share evenly."""
        lenders = self.lenders(context)
        if not lenders:
            return context, 0
        own = min(context, self.pool_tokens)
        return own, -(-(context - own) // lenders)


def room_of(profile: Profile, model: Model, tp: int, instances: int, block_tokens: int) -> Room:
    """Raises ConfigError where the weights leave no room."""
    blocks = num_blocks(profile, model, tp, block_tokens)
    lending = Lending.Config()
    lendable = min(int(lending.lend_fraction * blocks), blocks - lending.keep_blocks)
    return Room(
        tp=tp,
        instances=instances,
        pool_blocks=blocks,
        block_tokens=block_tokens,
        lendable_blocks=max(1, lendable),
    )


def told_model(model: Model, context: int, block_tokens: int) -> list[str]:
    """The model's sizes, with their arithmetic."""
    heads, kv, dim, hidden = model.num_heads, model.num_kv_heads, model.head_dim, model.hidden_size
    tables = model.head_parameters * (1 if model.tied else 2)
    token = model.kv_token_bytes
    return [
        f"a layer: 2 x ({heads} + {kv}) heads x {dim} x {hidden:,} + 3 x {hidden:,} x "
        f"{model.mlp_size:,} = {model.layer_parameters:,} parameters",
        f"weights: {model.item_bytes} bytes x ({model.num_layers} layers x "
        f"{model.layer_parameters:,} + {tables:,} of tables) = {model.weight_bytes / 1e9:.2f} GB",
        f"keys and values of a token: {model.num_layers} layers x 2 x {kv} heads x {dim} x "
        f"{model.item_bytes} bytes = {token:,} bytes",
        f"a context of {context:,} tokens: {context:,} x {token:,} bytes = "
        f"{context * token / 1e9:.2f} GB, in {-(-context // block_tokens):,} blocks of "
        f"{block_tokens} tokens",
    ]


def told_room(room: Room, profile: Profile, model: Model, context: int) -> list[str]:
    """What an instance holds, and how long a context can be, with their arithmetic."""
    memory, tp = profile.device.memory_bytes, room.tp
    usable, working = UTILISATION * memory * tp, ACTIVATION_BYTES * tp
    copies = max(1.0, tp / model.num_kv_heads)
    block = model.kv_token_bytes * room.block_tokens * copies
    copied = f" x {copies:g} copies of each KV head" if copies > 1 else ""
    left = usable - model.weight_bytes - working
    others, lendable = room.instances - 1, room.lendable_blocks
    missing = max(0, room.blocks(context) - room.pool_blocks)
    lines = [
        f"usable: {UTILISATION:g} x {memory / 1e9:.1f} GB x {tp} devices = {usable / 1e9:.2f} GB; "
        f"less {model.weight_bytes / 1e9:.2f} GB of weights and {ACTIVATION_BYTES / 1e9:g} GB of "
        f"working room for each device = {left / 1e9:.2f} GB",
        f"a block: {room.block_tokens} x {model.kv_token_bytes:,} bytes{copied} = "
        f"{block / 1e6:.2f} MB; a pool: {left / 1e9:.2f} GB / {block / 1e6:.2f} MB = "
        f"{room.pool_blocks:,} blocks = {room.pool_tokens:,} tokens",
        f"longest context alone: {room.longest_alone:,} tokens; with lending: {room.pool_blocks:,} "
        f"+ {others} x {lendable:,} lendable blocks = {room.longest_lending:,} tokens",
    ]
    if missing and room.longest_lending >= context:
        lines.append(
            f"one context of {context:,} tokens: {room.blocks(context):,} - {room.pool_blocks:,} = "
            f"{missing:,} blocks are borrowed, from {room.lenders(context)} of {others} others"
        )
    return lines
