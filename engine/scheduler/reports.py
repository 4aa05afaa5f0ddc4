"""Reports: what a pool or a step says of itself again and again, as changes of what it said before.

A sender's ``Series`` says the first report whole and then only what has changed. The planner puts
together what it hears with ``follow``; when one was lost, or it has just begun, it cannot, and asks
for a whole one with Resend. What is known is always some report of the sender, exactly. No I/O.
"""

from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from engine.protocol import Heartbeat, Histogram, Load, RequestLoad

R = TypeVar("R", Heartbeat, Load)

PASSING: dict[type, tuple[str, ...]] = {
    Heartbeat: ("lent",),
    Load: ("requests", "origins", "borrowed"),
}
"""dicts whose keys come and go"""
LASTING: dict[type, tuple[str, ...]] = {
    Heartbeat: ("counts",),
    Load: ("relief", "reuse", "counts", "histograms"),
}
"""dicts whose keys stay for as long as the process"""
DICTS = {kind: (*LASTING[kind], *PASSING[kind]) for kind in LASTING}


class Series(Generic[R]):
    """The sender's side: one for each life of a pool, or of a step."""

    def __init__(self) -> None:
        self._told: R | None = None
        self._number = 0

    def next(self, report: R) -> R:
        """What to send for this whole report."""
        self._number += 1
        told, self._told = self._told, report
        if told is None:
            return replace(report, number=self._number)
        return news(told, report, self._number)

    def resend(self) -> None:
        """The next one is whole: the planner does not know what was said before."""
        self._told = None


def is_old(known: R | None, said: R) -> bool:
    """An earlier life's, or heard before, or overtaken."""
    if known is None or said.epoch > known.epoch:
        return False
    return said.epoch < known.epoch or 0 < said.number <= known.number


def follow(known: R | None, said: R) -> R | None:
    """What is known with a report that is not old; None when what it changes is not known."""
    if said.whole:
        return said
    if known is None or (said.epoch, said.number) != (known.epoch, known.number + 1):
        return None
    return merged(known, said)


def news(known: R, report: R, number: int) -> R:
    """The report as changes of a known one, or whole if that cannot be said."""
    before: Any = known
    changed: dict[str, Any] = {}
    gone: dict[str, list[int]] = {}
    for name in DICTS[type(report)]:
        was, now = getattr(before, name), getattr(report, name)
        if was == now:
            changed[name] = {}
            continue
        changed[name] = {key: value for key, value in now.items() if was.get(key) != value}
        if left := [key for key in was if key not in now]:
            gone[name] = left
    if gone and any(name in gone for name in LASTING[type(report)]):
        return replace(report, number=number)
    if isinstance(report, Load):
        changed["histograms"] = {
            name: _without_bounds(before.histograms.get(name), histogram)
            for name, histogram in changed["histograms"].items()
        }
    elif report.sketch == before.sketch:
        changed["sketch"] = None
    return replace(report, number=number, whole=False, gone=gone, **changed)


def merged(known: R, said: R) -> R:
    """The whole report that a sender made these changes of."""
    before: Any = known
    whole: dict[str, Any] = {}
    name: str
    for name in DICTS[type(said)]:
        was, changed = getattr(before, name), getattr(said, name)
        if said.gone and (left := {*said.gone.get(name, ())}):
            was = {key: value for key, value in was.items() if key not in left}
        whole[name] = {**was, **changed} if changed else was
    if isinstance(said, Load):
        whole["histograms"] |= {
            name: replace(histogram, bounds=before.histograms[name].bounds)
            for name, histogram in said.histograms.items()
            if not histogram.bounds and name in before.histograms
        }
    elif said.sketch is None:
        whole["sketch"] = before.sketch
    return replace(said, whole=True, gone={}, **whole)


def tokens_of(load: Load, request: RequestLoad) -> tuple[int, int]:
    """Tokens of its answer so far, and tokens whose keys are in some block."""
    since = load.num_steps if request.state == "decode" else 0
    return request.num_output + since, request.num_computed + since


def _without_bounds(known: Histogram | None, histogram: Histogram) -> Histogram:
    if known is None or known.bounds != histogram.bounds:
        return histogram
    return replace(histogram, bounds=[])
