"""Every recipe loads, is short, says how it is launched, and builds with a tiny model."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import make_tiny

from engine.config import load
from engine.core import SamplingParams
from engine.llm import LLM

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_runs(path, tmp_path):
    text = path.read_text()
    assert len(text.splitlines()) < 40
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert any("torchrun" in line and path.name in line for line in header)
    config = load(str(path))
    model = replace(config.model, path=str(make_tiny(tmp_path / "model")))
    llm = LLM(replace(config, model=model))
    (completion,) = llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2, ignore_eos=True))
    assert len(completion.token_ids) == 2
    llm.check()
    llm.close()
