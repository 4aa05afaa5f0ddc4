"""A rank's part of a model whose weights are whole, cut in this process."""

from engine.comm.collective import Collective
from engine.model.checkpoint import Checkpoint
from engine.model.cut import cut
from engine.model.shard import Shard
from engine.model.sharded_llama import ShardedLlama


def part_of(whole: Checkpoint, collective: Collective) -> ShardedLlama:
    """As ``Checkpoint.part``, for any number of ranks; the weights are in plain rows."""
    config = whole.config
    shard = Shard.of(config, collective.rank, collective.size)
    weights = {name: cut(name, weight, config, shard) for name, weight in whole.weights.items()}
    return ShardedLlama(config, weights, collective)
