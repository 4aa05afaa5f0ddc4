"""Benchmarks: each beside its bound or a peer of the same run. Ctrl-C ends them without a word."""

import signal
import sys
from types import TracebackType

import engine  # noqa: F401  (before torch is imported: it says how OpenMP shall wait)


def _hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Python ends as Ctrl-C does by itself; only what it would say is left out."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)


sys.excepthook = _hook
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # NumPy makes an ImportError of it, torch nothing
    import numpy  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)
