"""One GGUF file: its metadata and its tensors, dequantized to float32.

The header is read here (20 times faster than the library's reader, which makes an array of every
token); the library ``gguf`` is imported only to dequantize. Torch is imported only by ``read``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.model.config import LlamaConfig, from_gguf
from engine.model.layout import Part

if TYPE_CHECKING:
    from torch import Tensor

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_FORMATS |= {12: "d"}
_STRING, _ARRAY = 8, 9
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


class _TensorInfo(NamedTuple):
    shape: tuple[int, ...]
    """rows first, as in torch"""
    kind: int
    """ggml's number of the quantization"""
    offset: int


class GgufFile:
    """A source of weights; the same interface as ``HuggingFaceFolder``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self._infos: dict[str, _TensorInfo] = {}
        try:
            with path.open("rb") as file:
                self._read_header(_Header(file, path.stat().st_size))
        except (struct.error, UnicodeDecodeError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"{path} is damaged or truncated ({path.stat().st_size} bytes): its GGUF header "
                f"cannot be read ({type(error).__name__}: {error})"
            ) from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error

    @property
    def config(self) -> LlamaConfig:
        factors: tuple[float, ...] = ()
        if "rope_freqs.weight" in self._infos:
            factors = tuple(map(float, self._dequantized("rope_freqs.weight")))
        return from_gguf(self.metadata, self._infos.keys(), factors)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        found = (self.metadata.get(f"tokenizer.ggml.{key}") for key in _STOP_KEYS)
        return tuple(dict.fromkeys(int(value) for value in found if value is not None))

    @property
    def files(self) -> list[Path]:
        return [self.path]

    def read(self, part: Part) -> Tensor:
        """The tensor in float32 and the row order of transformers."""
        import torch

        info = self._infos.get(part.gguf)
        if info is None:
            raise CheckpointError(f"{self.path} has no tensor {part.gguf}")
        if info.shape != part.shape:
            raise CheckpointError(
                f"{self.path}: tensor {part.gguf} is {info.shape}, {part.shape} wanted"
            )
        array = self._dequantized(part.gguf)
        if part.num_heads and self.metadata["general.architecture"] == "llama":
            # ggml rotates neighbouring rows of a head, transformers its two halves
            pairs = array.reshape(part.num_heads, -1, 2, part.shape[-1])
            array = pairs.swapaxes(1, 2).reshape(part.shape)
        return torch.from_numpy(np.require(array, requirements=("C", "W")))

    def _dequantized(self, name: str) -> NDArray[np.float32]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        info = self._infos[name]
        try:
            kind = GGMLQuantizationType(info.kind)
            block_items, block_bytes = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.path}: tensor {name} has the unknown quantization {info.kind}"
            ) from error
        row_bytes = info.shape[-1] // block_items * block_bytes
        shape = (*info.shape[:-1], row_bytes)
        end = info.offset + int(np.prod(shape))
        file_bytes = self.path.stat().st_size
        if end > file_bytes:
            raise CheckpointError(
                f"{self.path} is truncated: tensor {name} ends at byte {end} of {file_bytes}"
            )
        data = np.memmap(self.path, np.uint8, "r", info.offset, shape)
        try:
            return np.asarray(dequantize(data, kind), np.float32).reshape(info.shape)
        except NotImplementedError as error:
            raise CheckpointError(
                f"{self.path}: tensor {name} is {kind.name}, which cannot be dequantized"
            ) from error

    def _read_header(self, header: _Header) -> None:
        magic, version = header.bytes(4), header.number("I")
        if magic != b"GGUF" or version not in (2, 3):
            raise CheckpointError(
                f"{self.path} is not a GGUF file of version 2 or 3 (starts with {magic!r}, "
                f"version {version})"
            )
        num_tensors, num_keys = header.number("Q"), header.number("Q")
        for _ in range(num_keys):
            key = header.string()
            self.metadata[key] = header.value(header.number("I"))
        infos = [self._tensor_info(header) for _ in range(num_tensors)]
        alignment = int(self.metadata.get("general.alignment", 32))
        start = -(-header.position // alignment) * alignment
        for name, info in infos:
            self._infos[name] = info._replace(offset=start + info.offset)

    @staticmethod
    def _tensor_info(header: _Header) -> tuple[str, _TensorInfo]:
        name, num_dims = header.string(), header.number("I")
        dims = header.numbers("Q", num_dims)
        return name, _TensorInfo(tuple(reversed(dims)), header.number("I"), header.number("Q"))


class _Header:
    """Values one after the other; never reads more than the file has."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self.file, self.file_bytes, self.position = file, file_bytes, 0

    def bytes(self, count: int) -> bytes:
        if count > self.file_bytes - self.position:
            raise EOFError(f"{count} bytes wanted at byte {self.position} of {self.file_bytes}")
        self.position += count
        return self.file.read(count)

    def numbers(self, form: str, count: int) -> tuple[Any, ...]:
        size = struct.calcsize("<" + form)
        return struct.unpack(f"<{count}{form}", self.bytes(count * size))

    def number(self, form: str) -> Any:
        return self.numbers(form, 1)[0]

    def string(self) -> str:
        return self.bytes(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return list(self._array())
        return self.number(_FORMATS[kind])

    def _array(self) -> Iterator[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind in _FORMATS:
            return iter(self.numbers(_FORMATS[kind], count))
        return (self.value(kind) for _ in range(count))
