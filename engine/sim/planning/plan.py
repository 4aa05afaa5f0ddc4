"""The verb ``plan``: one question, or one for each value of a sweep."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.sim.planning import report
from engine.sim.planning.choice import Choice, Question, best, choices, question_of, simulate
from engine.sim.planning.config import PlanConfig, completed
from engine.sim.recipes import load_as
from engine.writable import why_not

PICTURES = (".png", ".svg", ".pdf")


def plan(recipe: str | None, overrides: Sequence[str], *, as_json: bool, sweep: bool) -> int:
    """The exit status. Raises ConfigError."""
    config = load(recipe, overrides)
    if sweep:
        return _sweep(config, recipe, overrides, as_json=as_json)
    question, found, chosen = answered(config)
    if as_json:
        print(json.dumps(report.as_json(question, found, chosen)))
    else:
        print(report.as_text(question, found, chosen))
    return 0


def load(recipe: str | None, overrides: Sequence[str]) -> PlanConfig:
    """Defaults < recipe < ``key=value``, checked. Raises ConfigError."""
    return completed(load_as(PlanConfig, recipe, overrides))


def answered(config: PlanConfig) -> tuple[Question, list[Choice], Choice]:
    """All choices and the best one. Raises ConfigError."""
    question = question_of(config)
    found = choices(question)
    if config.simulate:
        for one in found:
            room = one.room
            if one.unmet:
                continue
            print(f"simulating tp={room.tp} x {room.instances} ...", file=sys.stderr, flush=True)
            simulate(question, one)
    return question, found, best(found, config.lending)


def _sweep(
    config: PlanConfig, recipe: str | None, overrides: Sequence[str], *, as_json: bool
) -> int:
    over, wanted = config.sweep.over, config.sweep.values or _devices(config)
    if config.sweep.plot:
        _require_matplotlib()
        _require_picture(Path(config.sweep.plot))
    rows: list[dict[str, Any]] = []
    for value in wanted:
        print(f"{over}={value}", file=sys.stderr, flush=True)
        try:
            question, found, chosen = answered(load(recipe, [*overrides, f"{over}={value}"]))
        except ConfigError as error:
            if len(wanted) == 1:
                raise
            rows.append({over: value, "problem": str(error)})
            continue
        rows.append({over: value} | report.as_json(question, found, chosen)["best"])
    if all("problem" in row for row in rows):
        raise ConfigError(*_problems(over, rows))
    if config.sweep.plot:
        from engine.sim.planning.plot import draw

        Path(config.sweep.plot).absolute().parent.mkdir(parents=True, exist_ok=True)
        draw(over, rows, Path(config.sweep.plot))
    print(json.dumps(rows) if as_json else "\n".join(_table(over, rows)))
    if config.sweep.plot and not as_json:
        print(f"written: {config.sweep.plot}")
    return 0


def _devices(config: PlanConfig) -> list[int]:
    if config.sweep.over != "devices":
        raise ConfigError(f"sweep.values=[...] says which {config.sweep.over} to try")
    middle = config.devices or answered_devices(config)
    return sorted({max(1, int(middle * by)) for by in (0.25, 0.5, 1, 2)})


def answered_devices(config: PlanConfig) -> int:
    """The fewest that hold one context."""
    return choices(question_of(config))[0].room.devices


def _table(over: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    titles = [over, "tp", "instances", "longest alone", "with lending", "TTFT", "TPOT"]
    titles += ["goodput", "with lending", "device hours / 1M"]
    told, simulated = [titles], ("goodput_alone", "goodput_lending")
    for row in rows:
        if "problem" in row:
            told.append([str(row[over])] + ["-"] * (len(titles) - 1))
            continue
        hours = row.get("device_hours_per_million")
        told.append(
            [str(row[over]), str(row["tp"]), str(row["instances"])]
            + [f"{row['longest_alone']:,}", f"{row['longest_lending']:,}"]
            + [f"{row['ttft_s']:,.2f} s", f"{row['tpot_s'] * 1e3:.1f} ms"]
            + [f"{row[name]:,.1f}" if name in row else "-" for name in simulated]
            + [f"{hours:,.3f}" if hours else "-"]
        )
    return [*report.aligned(told), *_problems(over, rows)]


def _problems(over: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each once, with all values that have it."""
    values: dict[str, list[str]] = {}
    for row in rows:
        for line in row.get("problem", "").splitlines():
            same = line.replace(f"{over}={row[over]}", over)
            values.setdefault(same, []).append(str(row[over]))
    return [f"{over}={', '.join(those)}: {line}" for line, those in values.items()]


def _require_picture(path: Path) -> None:
    """Before anything is computed for it."""
    if path.suffix not in PICTURES:
        raise ConfigError(
            f"sweep.plot={path}: a file that ends in {' or '.join(PICTURES)} is wanted"
        )
    if reason := why_not(path):
        raise ConfigError(f"sweep.plot={path}: no file can be written there: {reason}")


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the picture needs matplotlib: pip install 'lendkv[plots]', or set sweep.plot="
        ) from error
