"""Fused weights in one safetensors file that every process of the machine maps.

A source is converted once for each dtype, form and number of tp ranks; many processes may ask at
the same time. The parts of all ranks lie in one file, so that each maps its own and nobody copies.
Knows nothing of formats: a source gives parts (``layout.Part``) as tensors.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import CheckpointError
from engine.model import int8, panels
from engine.model.config import LlamaConfig
from engine.model.cut import cut, is_cut, name_of, shape_of_cut
from engine.model.layout import Fused, Part, fused_weights
from engine.model.shard import Shard
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
    """A weight as it lies in the file, or one rank's part of it."""

    name: str
    weight: Fused
    dtype: torch.dtype
    shape: tuple[int, ...]
    pack: Callable[[Tensor], Tensor]
    """the tensor from the joined one"""

    @classmethod
    def of(cls, weight: Fused, dtype: str, form: Form) -> Stored:
        own = getattr(torch, weight.dtype or dtype)
        if form == "rows" or not weight.multiplies:
            return cls(weight.name, weight, own, weight.shape, lambda joined: joined.to(own))
        if form == "int8":
            shape: tuple[int, ...] = int8.packed_shape(*weight.shape)
            return cls(weight.name, weight, torch.uint8, shape, int8.pack)
        shape = panels.packed_shape(*weight.shape)
        return cls(weight.name, weight, own, shape, lambda joined: panels.pack(joined.to(own)))

    def cut_for(self, config: LlamaConfig, ranks: int) -> list[Stored]:
        """The ranks' parts; itself where they have it whole. Of plain rows."""
        if ranks == 1 or not is_cut(self.name):
            return [self]
        shards = [Shard.of(config, rank, ranks) for rank in range(ranks)]
        return [
            self._replace(
                name=name_of(self.name, shard.rank),
                shape=shape_of_cut(self.name, self.shape, config, shard),
                pack=partial(self._cut, config, shard),
            )
            for shard in shards
        ]

    def _cut(self, config: LlamaConfig, shard: Shard, joined: Tensor) -> Tensor:
        return cut(self.name, self.pack(joined), config, shard)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def fused(
    source: Source,
    config: LlamaConfig,
    dtype: str,
    on_progress: Progress | None,
    form: Form = "rows",
    ranks: int = 1,
) -> dict[str, Tensor]:
    """The weights of ``Llama``, mapped from the cache and shared; never write to them.

    Converts first if this machine has not yet, or if the file is damaged. In another form than
    rows there is a head of its own even where the embedding, always in rows, is tied to it. With
    several ``ranks``, in rows only, there are the parts of all (``cut.py``).
    """
    weights = [
        stored
        for weight in fused_weights(config, own_head=form != "rows")
        for stored in Stored.of(weight, dtype, form).cut_for(config, ranks)
    ]
    kind = dtype if form == "rows" else f"{dtype} {form}"
    kind += f" for {ranks} ranks" if ranks > 1 else ""
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
            if names != {stored.name for stored in weights}:
                return None
            mapped = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError):
        return None
    right = all(
        mapped[stored.name].shape == stored.shape and mapped[stored.name].dtype == stored.dtype
        for stored in weights
    )
    return mapped if right else None


def _write(
    path: Path,
    source: Source,
    weights: list[Stored],
    on_progress: Progress | None,
) -> None:
    """Weight by weight, so that a conversion needs the memory of one."""
    total, done, header = sum(stored.num_bytes for stored in weights), 0, {}
    for stored in weights:
        end = done + stored.num_bytes
        header[stored.name] = {
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
        for weight, group in itertools.groupby(weights, lambda stored: stored.weight):
            joined = _joined(source, weight)
            for stored in group:
                tensor = stored.pack(joined).contiguous()
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
