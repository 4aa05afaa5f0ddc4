"""Benchmarks: each beside its bound or a peer of the same run. Ctrl-C ends them without a word."""

import sys
from types import TracebackType

import engine  # noqa: F401  (before torch is imported: it says how OpenMP shall wait)


def _hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Python ends as Ctrl-C does by itself; only what it would say is left out."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)


sys.excepthook = _hook
import numpy  # noqa: E402, F401  (before torch is, which imports it and swallows Ctrl-C there)
