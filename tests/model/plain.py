"""Checkpoints in plain rows, as on a machine without the C++ decoder."""

import pytest

from engine.model import native_llama
from engine.model.checkpoint import Checkpoint, load


def load_plain(path: str, dtype: str) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_llama, "processor_flags", frozenset)
        return load(path, dtype)
