"""A pool that is given a share of the host's memory takes it all, and no more than that."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import load
from engine.core import BlockLayout, ModelShape
from engine.errors import ConfigError
from engine.memory import room
from engine.memory.base import region_bytes
from engine.sizing import Footprint, advice, blocks_within

LAYOUT = BlockLayout(layers=2, kv_heads=1, head_dim=16, tokens=8, dtype="float32")
SHAPE = ModelShape(
    num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, vocab_size=256, max_positions=1000
)
NOTHING = Footprint(weights=0, runtime=0)


@given(
    total=st.integers(1, 1 << 34),
    percent=st.integers(1, 100),
    weights=st.integers(0, 1 << 24),
    runtime=st.integers(0, 1 << 24),
    num_here=st.integers(1, 8),
)
def test_all_pools_weights_and_processes_fit_and_one_block_more_would_not(
    total, percent, weights, runtime, num_here
):
    footprint = Footprint(weights=weights, runtime=runtime)
    share = percent / 100 * total

    def taken(num_blocks):
        return weights + num_here * (runtime + region_bytes(LAYOUT, num_blocks))

    try:
        found = blocks_within(f"{percent}%", LAYOUT, footprint, num_here, total)
    except ConfigError as refused:
        assert f"pool.memory={percent}%" in str(refused)  # noqa: PT017
        assert taken(2) > share - 1
    else:
        assert taken(found) <= share
        assert taken(found + 1) > share - 1


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1KiB", 1024), ("2.5MB", 2_500_000), ("1 GiB", 1 << 30), ("50%", 500), ("100%", 1000)],
)
def test_sizes_have_the_units_that_they_name(text, num_bytes):
    assert room.parse_size(text, 1000) == num_bytes


@pytest.mark.parametrize("text", ["", "0%", "101%", "4", "GiB", "-1GiB", "4 gib", "60 percent"])
def test_what_is_no_size_is_refused_with_what_is(text):
    with pytest.raises(ConfigError, match="60% or 4GiB"):
        room.parse_size(text, 1000)


def test_a_cgroups_limit_counts_where_it_is_lower(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    assert room.total_bytes() == 4000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert room.total_bytes() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.total_bytes() == 4000 * 1024
    half = blocks_within("50%", LAYOUT, NOTHING, 1)
    assert region_bytes(LAYOUT, half) <= 2000 * 1024 < region_bytes(LAYOUT, half + 1)


def test_mistakes_are_found_in_the_configuration():
    with pytest.raises(ConfigError, match="'7 apples' is no share of memory"):
        load(None, ["pool.memory=7 apples"])
    with pytest.raises(ConfigError, match="choose one"):
        load(None, ["pool.memory=60%", "pool.sizes=[4]"])


def test_more_than_there_is_is_refused():
    with pytest.raises(ConfigError, match="9999999TiB is more than the 1,000 bytes"):
        blocks_within("9999999TiB", LAYOUT, NOTHING, 1, 1000)


def test_advice_names_contexts_alone_and_together():
    overrides = ["pool.num_blocks=40", "pool.block_tokens=8", "scheduler.max_step_tokens=32"]
    alone = advice(load(None, [*overrides, "instances=1"]), SHAPE)
    assert "40 blocks of 8 tokens" in alone
    assert "up to 320 tokens alone" in alone
    assert "lend" not in alone
    two = advice(load(None, [*overrides, "instances=2", "pool.lending.keep_blocks=10"]), SHAPE)
    assert "320 tokens alone, 560 with what the others may lend" in two
    many = advice(load(None, [*overrides, "instances=9"]), SHAPE)
    assert "1,000 with what the others may lend" in many  # the model has no more positions


MEASURE = """
import sys
from engine.config import load
from engine.sizing import measure
found = measure(load(None, sys.argv[1:]))
print(found.weights, found.runtime)
"""


def test_weights_and_processes_are_measured(tmp_path):
    from tiny_models import make_tiny

    model = make_tiny(tmp_path / "model")
    command = [sys.executable, "-c", MEASURE, f"model.path={model}", "model.dtype=float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    weights, runtime = map(int, done.stdout.split())
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert 0.5 * stored < weights < 2 * stored
    assert 20 << 20 < runtime < 4 << 30
