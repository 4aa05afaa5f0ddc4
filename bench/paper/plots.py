"""Plots of docs/paper.md; without matplotlib none are drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.paper import contexts, rates, setup, traces

Values = Mapping[str, Any]
COLOURS = {
    "vllm-multi": "#888888",
    "vllm-single": "#bb8833",
    "ledger": "#3388bb",
    "greedy": "#2a9d5c",
    "balanced": "#9944aa",
}


def draw(values: Values, folder: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "paper", "font.size": 8, "svg.fonttype": "none"})
    for setting in traces.SETTINGS:
        _traces(values, setting, folder / f"paper-traces-{setting}.svg")
    _contexts(values, folder / "paper-contexts.svg")
    _rates(values, folder / "paper-rates.svg")


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _traces(values: Values, setting: str, path: Path) -> None:
    """greedy and ledger against both baselines, by trace; the published ranges behind."""
    import matplotlib.pyplot as plt

    if not traces.ratios(values, setting, "greedy", "vllm-multi"):
        return
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.8))
    published = {"vllm-multi": ((0, 2), (1.35, 1.73)), "vllm-single": ((3, 8), (1.4, 3.4))}
    for axis, (against, (where, (low, high))) in zip(axes, published.items(), strict=True):
        axis.fill_between((where[0] - 0.4, where[1] + 0.4), low, high, color="#dddddd")
        for system, line in (("greedy", "-"), ("ledger", ":")):
            found = traces.ratios(values, setting, system, against)
            for model, marker in zip(setup.MODELS, "os^", strict=True):
                points = {int(case.split("/")[1]): x for case, x in found.items() if model in case}
                axis.plot(
                    list(points),
                    list(points.values()),
                    line,
                    marker=marker,
                    markersize=3,
                    color=COLOURS[system],
                    label=f"{system} {model[7:]}",
                )
        axis.axhline(1.0, color="#aaaaaa", linewidth=0.6)
        axis.set(xlabel="trace", title=f"against {against}", xticks=range(9), yscale="log")
        axis.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axes[1].legend(fontsize=6)
    _save(figure, path)


def _contexts(values: Values, path: Path) -> None:
    """Tokens a second over the length of contexts, a panel each model."""
    import matplotlib.pyplot as plt

    last = f"contexts/{setup.MODELS[-1]}/{contexts.LABELS[-1]}/{contexts.SYSTEMS[-1]}"
    if last not in values:
        return
    figure, axes = plt.subplots(1, len(setup.MODELS), figsize=(7.2, 2.4))
    for axis, model in zip(axes, setup.MODELS, strict=True):
        at = contexts.points(setup.cluster(model))
        for system in contexts.SYSTEMS:
            found = {
                context: values.get(f"contexts/{model}/{label}/{system}", {}).get("tokens_per_s")
                for label, context in at.items()
            }
            points = {context: x for context, x in found.items() if x}
            axis.plot(
                list(points),
                list(points.values()),
                marker="o",
                markersize=3,
                color=COLOURS[system],
                label=system,
            )
        axis.set(xscale="log", yscale="log", xlabel="context", title=model)
    axes[0].set_ylabel("tokens/s")
    axes[-1].legend(fontsize=6)
    _save(figure, path)


def _rates(values: Values, path: Path) -> None:
    """Wait for the first token over tokens a second: columns traces, rows instances."""
    import matplotlib.pyplot as plt

    if not any(name.startswith("rates/") for name in values):
        return
    shape = len(rates.INSTANCES), len(rates.TRACES)
    figure, axes = plt.subplots(*shape, figsize=(7.2, 4.2), squeeze=False)
    for row, instances in zip(axes, rates.INSTANCES, strict=True):
        for axis, trace in zip(row, rates.TRACES, strict=True):
            for system in rates.SYSTEMS:
                found = [
                    values.get(f"rates/{instances}/{trace}/{share}/{system}")
                    for share in rates.SHARES
                ]
                points = [(one["tokens_per_s"], one["ttft_p99"]) for one in found if one]
                axis.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    marker="o",
                    markersize=3,
                    color=COLOURS[system],
                    label=system,
                )
            axis.set(yscale="log", title=f"{instances} instances, trace {trace}")
    for axis in axes[-1]:
        axis.set_xlabel("tokens/s")
    for row in axes:
        row[0].set_ylabel("first token, p99 (s)")
    axes[0][0].legend(fontsize=6)
    _save(figure, path)
