"""Runs: one system on one workload, and the figures that are kept of it."""

from collections.abc import Sequence
from typing import Any

from engine.sim.serving.config import ServingConfig
from engine.sim.serving.run import run
from engine.sim.serving.workload import Arrival

KEPT = (
    "requests",
    "answered",
    "refused",
    "seconds",
    "tokens_per_s",
    "bulk_tokens_per_s",
    "goodput",
    "met_share",
    "busy_share",
    "loans",
    "handovers",
    "preemptions",
    "recomputed_tokens",
    "moved_blocks",
    "longest",
)


def figures(config: ServingConfig, system: str, requests: Sequence[Arrival]) -> dict[str, Any]:
    found = run(config, system, requests)
    most = max((lent for _, lent, _ in found["lent_over_time"]), default=0)
    spreads = {
        f"{key}_p{share}": found[f"{key}_s"][f"p{share}"]
        for key in ("ttft", "tpot")
        for share in (50, 99)
    }
    lent = {"most_lent_share": most / found["blocks"]}
    return {key: found[key] for key in KEPT} | spreads | lent


def rate(figures: dict[str, Any]) -> float:
    """Tokens per second, without the last few requests."""
    return float(figures["bulk_tokens_per_s"])
