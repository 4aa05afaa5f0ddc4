"""Tiny models, made once; one processor thread, as each instance has in a cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cluster_harness import tiny_checkpoint

from engine.model.checkpoint import Checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Checkpoint:
    """Float32."""
    return tiny_checkpoint(tiny_path)


@pytest.fixture(scope="session")
def tiny_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny_bfloat16"), "bfloat16")
