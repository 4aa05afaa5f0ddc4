"""A model of random weights that finds many tokens about as likely, and reads and writes bytes."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "launch"))
sys.path.append(str(Path(__file__).parents[1] / "server"))

from tiny_checkpoint import make_tiny_checkpoint

from engine import LLM

EVEN = 0.05
"""initializer range; with more of it few tokens have nearly all the probability"""


@pytest.fixture(scope="session")
def even_path(tmp_path_factory):
    return make_tiny_checkpoint(
        tmp_path_factory.mktemp("even") / "model", max_positions=1024, initializer_range=EVEN
    )


@pytest.fixture(scope="session")
def llm(even_path):
    overrides = [f"model.path={even_path}", "model.dtype=float32", "model.bits=schedule"]
    llm = LLM(None, *overrides, "pool.num_blocks=256", "pool.block_tokens=16")
    yield llm
    llm.close()
