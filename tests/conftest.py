"""Hypothesis profiles, chosen by ``--hypothesis-profile``: ``dev`` is the default."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from engine.errors import ConfigError
from engine.native import library

# Without a GPU, Triton's kernels run in its interpreter; it looks when it is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A change is judged by the same examples wherever and whenever; new ones are looked for at night.
_shared = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, derandomize=True, **_shared)
settings.register_profile("ci", max_examples=300, derandomize=True, **_shared)
settings.register_profile("nightly", max_examples=300, print_blob=True, **_shared)
settings.load_profile("dev")


@pytest.fixture(scope="session", autouse=True)
def native_helper():
    """Compiled before any test waits for a process that needs it."""
    with contextlib.suppress(ConfigError):
        library.load()
