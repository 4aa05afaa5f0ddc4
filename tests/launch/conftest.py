"""A tiny model with a tokenizer, and a recipe for pools that are too small for the prompt."""

from pathlib import Path

import pytest
from tiny_checkpoint import make_tiny_checkpoint


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    model = make_tiny_checkpoint(folder / "model", max_positions=4096)
    path = folder / "recipe.yaml"
    path.write_text(
        "instances: 2\n"
        f"model: {{path: {model}, dtype: float32}}\n"
        "pool: {num_blocks: 24, block_tokens: 8}\n"
        "scheduler: {max_step_tokens: 32}\n"
        "generate: {max_tokens: 16, ignore_eos: true}\n"
    )
    return path
