"""LendKV: independent LLM serving instances that lend each other KV-cache memory.

``LLM`` (text) and ``Engine`` (token ids, parts of your own) run instances in this process.
"""

import os
from typing import TYPE_CHECKING, Any

# Before torch loads OpenMP: its threads would spin on the cores that ours compute on (measured:
# a step of 8 rows took 16 ms instead of 7).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from engine.inprocess import Engine
    from engine.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "Engine", "__version__"]


def __getattr__(name: str) -> Any:
    """Imported on first use: supervisors and pools need neither, and no torch."""
    if name == "LLM":
        from engine.llm import LLM

        return LLM
    if name == "Engine":
        from engine.inprocess import Engine

        return Engine
    raise AttributeError(name)
