"""One Hugging Face folder: config.json and safetensors files. Only ``read`` imports torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from engine.errors import CheckpointError
from engine.model.config import LlamaConfig, from_huggingface
from engine.model.layout import Part

if TYPE_CHECKING:
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class HuggingFaceFolder:
    """A source of weights; the same interface as ``GgufFile``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = read_json(path / "config.json")
        self._opened: dict[Path, Any] = {}

    @property
    def config(self) -> LlamaConfig:
        return from_huggingface(self._raw)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        generation = self.path / "generation_config.json"
        given = read_json(generation).get("eos_token_id") if generation.exists() else None
        given = self._raw.get("eos_token_id") if given is None else given
        if given is None:
            return ()
        found = given if isinstance(given, list) else [given]
        if not all(type(value) is int and value >= 0 for value in found):
            raise CheckpointError(
                f"{self.path}: eos_token_id is {given!r}; a token's number, or a list of these, "
                "is wanted"
            )
        return tuple(found)

    @property
    def files(self) -> list[Path]:
        """Everything the weights depend on."""
        shards = sorted(set(self._shards.values()) or {self.path / SINGLE})
        for path in shards:
            if not path.exists():
                raise CheckpointError(f"{path} is missing")
        return [self.path / "config.json", *shards]

    def read(self, part: Part) -> Tensor:
        """The tensor in the dtype it is stored in."""
        path = self._shards.get(part.huggingface)
        if path is None and self._shards:
            raise CheckpointError(f"{self.path / INDEX} has no tensor {part.huggingface}")
        file = self._open(path or self.path / SINGLE)
        try:
            shape = tuple(file.get_slice(part.huggingface).get_shape())
            if shape != part.shape:
                raise CheckpointError(
                    f"{self.path}: tensor {part.huggingface} is {shape}, {part.shape} wanted"
                )
            tensor: Tensor = file.get_tensor(part.huggingface)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path or self.path / SINGLE} has no tensor {part.huggingface}"
            ) from error
        if not tensor.is_floating_point() or tensor.itemsize < 2:
            raise CheckpointError(
                f"{self.path}: tensor {part.huggingface} is {tensor.dtype}, only float32, "
                "bfloat16 and float16 are supported"
            )
        return tensor

    @functools.cached_property
    def _shards(self) -> dict[str, Path]:
        """File of each tensor; empty for a checkpoint of one file."""
        if (self.path / SINGLE).exists() or not (self.path / INDEX).exists():
            return {}
        weight_map = read_json(self.path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{self.path / INDEX} has no weight_map")
        return {str(name): self.path / str(shard) for name, shard in weight_map.items()}

    def _open(self, path: Path) -> Any:
        """The shard, opened; only the last one stays open."""
        if path not in self._opened:
            self._opened = {path: self._map(path)}
        return self._opened[path]

    @staticmethod
    def _map(path: Path) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            found = f"{path.stat().st_size} bytes" if path.exists() else "missing"
            raise CheckpointError(
                f"{path} is not a complete safetensors file ({found}): {error}"
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file; CheckpointError when it is missing or no table."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a table")
    return value
