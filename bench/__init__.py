"""Benchmarks: each beside its bound or a peer of the same run."""

import engine  # noqa: F401  (before torch is imported: it says how OpenMP shall wait)
