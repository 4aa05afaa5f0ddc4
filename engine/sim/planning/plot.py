"""Picture of a sweep (extra ``plots``): the longest context and the goodput, alone and lending."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALONE, LENDING = "#c9c9c9", "#2a6fb0"


def draw(over: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars for each value; one that has no plan is left empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    pairs = [
        ("longest_alone", "longest_lending", "longest context, tokens [arithmetic]"),
        ("goodput_alone", "goodput_lending", "goodput, output tokens/s [simulated]"),
    ]
    values = [str(row[over]) for row in rows]
    places = range(len(rows))
    for at, (alone, lending, title) in enumerate(pairs, 1):
        axes = figure.add_subplot(1, 2, at)
        for shift, key, color in ((-0.2, alone, ALONE), (0.2, lending, LENDING)):
            heights = [float(row.get(key, 0.0)) for row in rows]
            label = "nothing lent" if key == alone else "lending"
            axes.bar([x + shift for x in places], heights, width=0.4, color=color, label=label)
        axes.set_xticks(list(places), values)
        axes.set_xlabel(over)
        axes.set_title(title)
        axes.grid(axis="y", alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
