"""A checkpoint's own sampling defaults."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CheckpointError
from engine.model.generation import GenerationDefaults, generation_defaults


def folder(path: Path, config: Any) -> str:
    (path / "generation_config.json").write_text(json.dumps(config))
    return str(path)


def test_what_is_given_is_taken_and_the_rest_is_plain(tmp_path: Path) -> None:
    given = {"temperature": 0.7, "top_k": 20, "top_p": None, "do_sample": True, "eos_token_id": [1]}
    wanted = GenerationDefaults(temperature=0.7, top_k=20)
    assert generation_defaults(folder(tmp_path, given)) == wanted


def test_a_model_without_any_has_plain_ones(tmp_path: Path) -> None:
    assert generation_defaults(str(tmp_path)) == GenerationDefaults()
    assert generation_defaults("smollm2") == GenerationDefaults()


@pytest.mark.parametrize("wrong", [{"top_p": 0}, {"temperature": "hot"}, {"min_p": True}, []])
def test_what_cannot_be_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        generation_defaults(folder(tmp_path, wrong))
