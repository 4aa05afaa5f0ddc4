"""Tiny models, made once; one processor thread, as each instance has in a cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cluster_harness import tiny_checkpoint
from native_step import Step, decodes

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


@pytest.fixture(scope="session")
def five_layers(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("native") / "model"
    return tiny_checkpoint(path, "bfloat16", num_hidden_layers=5)


@pytest.fixture(params=["shm", "tcp"])
def step(request: pytest.FixtureRequest, five_layers: Checkpoint) -> Iterator[Step]:
    step = Step(five_layers, transport=request.param, wait_s=10.0)
    step.prefill()
    yield step
    step.close()


@pytest.fixture(scope="session")
def truth(five_layers: Checkpoint) -> list[torch.Tensor]:
    """Logits of four decodes, and of a chunk behind them, with everything at home."""
    step = Step(five_layers)
    step.prefill()
    told = [step.run(decodes(number))[0] for number in range(4)]
    told.append(step.run([(0, 134, 30), (1, 74, 1)])[0])
    step.close()
    return told
