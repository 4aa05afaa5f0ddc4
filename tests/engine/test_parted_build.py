"""A recipe's pool is cut for its ranks: each has its heads of every block, of host blocks, too."""

import pickle
from pathlib import Path

import pytest
from tiny_models import make_tiny

from engine.build import layout_of
from engine.build_attention import seated
from engine.build_parted import build_part, build_parted_pool
from engine.config import load
from engine.model.checkpoint import describe


@pytest.mark.parametrize("name", ["device", "tiered"])
def test_ranks_have_their_heads_of_all_blocks(tmp_path: Path, name: str) -> None:
    """The tiny model has 2 KV heads."""
    make_tiny(tmp_path)
    sizes = ("pool.num_blocks=5", "pool.lending.host_blocks=3")
    where = (f"pool.name={name}", "pool.options.device=cpu")
    config = load(None, [f"model.path={tmp_path}", "tp=2", *where, *sizes])
    ranks = [seated(config, rank, number_here=0, num_here=1) for rank in range(2)]
    layout = layout_of(config, describe(str(tmp_path)).shape)
    pool = build_parted_pool(layout, ranks)
    assert pool.num_blocks == 8
    assert [heads for heads, _ in pool.parts] == [range(1), range(1, 2)]
    _, part = pool.parts[1]
    shown = pickle.loads(pickle.dumps(part.share()))
    own = build_part(ranks[1], layout, 1, shown)
    for block in range(8):
        own.write(block, 0, bytes([block + 1]))
        assert part.read(block)[0] == pool.read(block)[layout.head_bytes] == block + 1
    if name == "tiered":
        assert [one.tiers[1].num_blocks for one in (part, own) if one.tiers] == [3, 3]
