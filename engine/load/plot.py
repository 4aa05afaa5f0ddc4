"""Pictures of a run (extra ``plots``): how latencies are distributed, and each request's time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.load.outcome import Outcome
from engine.load.report import TITLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING, DECODING, FAILED = "#c9c9c9", "#2a6fb0", "#c0392b"


def draw_distributions(outcomes: Sequence[Outcome], path: Path) -> None:
    """For each latency the share of requests, or of gaps, that took at most so long."""
    figure = _figure(9, 6)
    done = [outcome for outcome in outcomes if outcome.completed]
    series = {
        "ttft": [outcome.ttft for outcome in done],
        "tpot": [outcome.tpot for outcome in done if outcome.tpot is not None],
        "itl": [gap for outcome in done for gap in outcome.itls],
        "e2el": [outcome.e2el for outcome in done],
    }
    for place, (name, values) in enumerate(series.items(), 1):
        axes = figure.add_subplot(2, 2, place)
        axes.ecdf(1000 * np.array(values or [0.0]), color=DECODING)
        axes.set_title(TITLES[name])
        axes.set_xlabel("ms")
        axes.set_ylabel("share at most so long")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_timeline(outcomes: Sequence[Outcome], path: Path) -> None:
    """One line a request in the order of sending: until its first token, and until its last."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.sent)
    figure = _figure(10, min(3 + 0.08 * len(ordered), 30))
    axes = figure.add_subplot()
    for row, outcome in enumerate(ordered):
        if outcome.completed:
            axes.hlines(row, outcome.sent, outcome.times[0], color=WAITING)
            axes.hlines(row, outcome.times[0], outcome.times[-1], color=DECODING)
        else:
            axes.hlines(row, outcome.sent, outcome.ended, color=FAILED)
    for color, label in ((WAITING, "to the first token"), (DECODING, "tokens"), (FAILED, "failed")):
        axes.plot([], [], color=color, label=label)
    axes.invert_yaxis()
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel("requests, in the order of sending")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float) -> Figure:
    """Without pyplot: no window, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
