"""Fused weights in one safetensors file that every process of the machine maps.

A source is converted once for each dtype and form; many processes may ask at the same
time. Knows nothing of formats: a source gives parts (``layout.Part``) as tensors.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import CheckpointError
from engine.model import int8, panels
from engine.model.config import LlamaConfig
from engine.model.layout import Fused, Part, fused_weights
from engine.native.library import cache_folder

FORMAT_VERSION = 1
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}

Form = Literal["rows", "panels", "int8"]
"""of the matrices that rows are multiplied with: as they are, ``panels.py``, or ``int8.py``"""

Progress = Callable[[int, int], None]
"""called with the bytes written so far and in all"""


class Source(Protocol):
    """Where weights come from."""

    @property
    def files(self) -> list[Path]: ...

    def read(self, part: Part) -> Tensor: ...


class Stored(NamedTuple):
    """A weight as it lies in the file."""

    weight: Fused
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, weight: Fused, dtype: str, form: Form) -> Stored:
        own = getattr(torch, weight.dtype or dtype)
        if form == "rows" or not weight.multiplies:
            return cls(weight, own, weight.shape)
        if form == "int8":
            return cls(weight, torch.uint8, int8.packed_shape(*weight.shape))
        return cls(weight, own, panels.packed_shape(*weight.shape))

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self, source: Source) -> Tensor:
        joined = _joined(source, self.weight)
        if self.dtype == torch.uint8:
            return int8.pack(joined)
        joined = joined.to(self.dtype)
        return joined if self.shape == self.weight.shape else panels.pack(joined)


def fused(
    source: Source,
    config: LlamaConfig,
    dtype: str,
    on_progress: Progress | None,
    form: Form = "rows",
) -> dict[str, Tensor]:
    """The weights of ``Llama``, mapped from the cache and shared; never write to them.

    Converts first if this machine has not yet, or if the file is damaged. In another form than
    rows there is a head of its own even where the embedding, always in rows, is tied to it.
    """
    weights = [
        Stored.of(weight, dtype, form) for weight in fused_weights(config, own_head=form != "rows")
    ]
    kind = dtype if form == "rows" else f"{dtype} {form}"
    target = cache_folder() / "models" / f"{_hash(source.files, kind)}.safetensors"
    mapped = _map(target, weights)
    if mapped is not None:
        return mapped
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            mapped = _map(target, weights)  # another process may have written it meanwhile
            if mapped is None:
                partial = target.with_suffix(".tmp")
                try:
                    _write(partial, source, weights, on_progress)
                    os.replace(partial, target)
                finally:
                    partial.unlink(missing_ok=True)
                mapped = _map(target, weights)
    except OSError as error:
        total = sum(stored.num_bytes for stored in weights)
        raise CheckpointError(
            f"cannot write {total} bytes of converted weights to {target.parent} "
            f"({error.strerror}); set XDG_CACHE_HOME to a folder with room"
        ) from error
    if mapped is None:
        raise CheckpointError(f"{target} was just written and cannot be read back")
    return mapped


def _map(path: Path, weights: list[Stored]) -> dict[str, Tensor] | None:
    """The file's tensors, or None when it is absent or not what is wanted."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != {stored.weight.name for stored in weights}:
                return None
            mapped = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError):
        return None
    right = all(
        mapped[stored.weight.name].shape == stored.shape
        and mapped[stored.weight.name].dtype == stored.dtype
        for stored in weights
    )
    return mapped if right else None


def _write(
    path: Path,
    source: Source,
    weights: list[Stored],
    on_progress: Progress | None,
) -> None:
    """Tensor by tensor, so that a conversion needs the memory of one."""
    total, done, header = sum(stored.num_bytes for stored in weights), 0, {}
    for stored in weights:
        end = done + stored.num_bytes
        header[stored.weight.name] = {
            "dtype": _CODES[stored.dtype],
            "shape": stored.shape,
            "data_offsets": (done, end),
        }
        done = end
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    done = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for stored in weights:
            tensor = stored.tensor(source).contiguous()
            done += file.write(tensor.view(-1).view(torch.uint8).numpy().data)
            if on_progress is not None:
                on_progress(done, total)


def _joined(source: Source, weight: Fused) -> Tensor:
    """The parts one below the other, in the widest dtype among them."""
    tensors = []
    for part in weight.parts:
        tensor = source.read(part)
        tensors.append(tensor.expand(part.num_rows, *part.shape) if part.num_rows else tensor)
    return torch.cat(tensors)


def _hash(files: list[Path], kind: str) -> str:
    digest = hashlib.blake2b(f"{FORMAT_VERSION} {kind}".encode(), digest_size=16)
    for path in files:
        stat = path.stat()
        digest.update(f"\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()
