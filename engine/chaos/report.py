"""From what clients and steps noted to the figures of a report. No I/O."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engine.chaos.clients import Answer
from engine.chaos.schedule import Fault

SETTLE_S = 3.0
"""a fault's window goes on for so long after its end: recovery belongs to it"""
ONSET_S = 1.0
"""a debtor's pause because of a fault begins no later after its end: its step was under way"""


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was done, with its true times (CLOCK_MONOTONIC); or ``missed``."""

    fault: Fault
    began: float
    ended: float
    missed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """All that a run leaves."""

    seconds: float
    struck: Sequence[Struck]
    answers: Sequence[Answer]
    steps: Sequence[Mapping[str, Any]]
    """the lines of Watch"""
    errors: str
    """what the cluster wrote on stderr"""
    bystander: int
    """the instance that neither borrows nor lends, and is no victim"""
    wait_s: float
    oracle: str = "identical"
    """or teacher-forced: what a token was compared with"""


def figures(notes: Notes) -> dict[str, Any]:
    """The report as it is printed with --json."""
    done = [one for one in notes.struck if not one.missed]
    answers = notes.answers
    restarts = re.findall(r"the (\S[\w ]*) process ended", notes.errors)
    reasons = Counter(answer.failed for answer in answers if answer.failed)
    quiet, disturbed = bystander_gaps(notes)
    p99_quiet, p99_disturbed = percentile(quiet, 0.99), percentile(disturbed, 0.99)
    recomputed = sum(line["recomputed_tokens"] for line in notes.steps if line["what"] == "done")
    return {
        "seconds": round(notes.seconds, 1),
        "faults": dict(Counter(one.fault.kind for one in done)),
        "faults_by_role": dict(Counter(f"{one.fault.kind} {one.fault.role}" for one in done)),
        "faults_missed": [str(one.fault) for one in notes.struck if one.missed],
        "requests": len(answers),
        "finished": sum(answer.finished for answer in answers),
        "tokens": sum(len(answer.times) for answer in answers),
        "oracle": notes.oracle,
        "wrong_tokens": sum(answer.num_wrong for answer in answers),
        "failed_requests": sum(bool(answer.failed) for answer in answers),
        "failures": dict(reasons),
        "broken_connections": sum(answer.num_broken for answer in answers),
        "refused_503": sum(answer.num_refused for answer in answers),
        "stall_after_pool_kill_s": summary(stalls(notes, ("kill", "restart"))),
        "stall_after_pool_freeze_s": summary(stalls(notes, ("freeze",))),
        "wait_s": notes.wait_s,
        "bystander_p99_ms": {
            "fault_windows": _ms(p99_disturbed),
            "fault_samples": len(disturbed),
            "quiet": _ms(p99_quiet),
            "quiet_samples": len(quiet),
            "ratio": round(p99_disturbed / p99_quiet, 2) if p99_quiet and p99_disturbed else None,
        },
        "recomputed_tokens": recomputed,
        "loans": sum(line["what"] == "borrow" for line in notes.steps),
        "restarts": dict(Counter(restarts)),
        "tracebacks": notes.errors.count("Traceback"),
    }


def stalls(notes: Notes, kinds: Sequence[str]) -> list[float]:
    """Pauses of answers whose holder's pool was struck, less the steps that computed again.

    An answer counts if its owner's step had borrowed from the victim while it ran, and if it
    reports recomputed tokens.
    """
    lines = notes.steps
    owners = {
        line["request_id"]: line["instance"]
        for line in lines
        if line["what"] == "done" and line["recomputed_tokens"]
    }
    found = []
    for one in notes.struck:
        fault, at = one.fault, one.began
        if one.missed or fault.kind not in kinds or fault.role != "pool":
            continue
        for answer in notes.answers:
            owner = owners.get(answer.request_id)
            if owner in (None, fault.instance):
                continue
            owed = any(
                line["what"] == "borrow"
                and line["instance"] == owner
                and line["creditor"] == fault.instance
                and answer.began <= line["at"] <= at
                for line in lines
            )
            if not owed or not answer.times or not answer.times[0] <= at <= answer.times[-1]:
                continue
            end = one.ended + ONSET_S
            gaps = [(b - a, a, b) for a, b in pairwise(answer.times) if a <= end and b >= at]
            seconds, first, last = max(gaps)
            fills = (
                min(line["seconds"], line["at"] - first)
                for line in lines
                if line["what"] == "step"
                and line["fills"]
                and line["instance"] == owner
                and first < line["at"] <= last
            )
            found.append(max(0.0, seconds - sum(fills)))
    return found


def bystander_gaps(notes: Notes) -> tuple[list[float], list[float]]:
    """Times between two tokens at the bystander: outside all fault windows, and inside one."""
    windows = [(one.began, one.ended + SETTLE_S) for one in notes.struck]
    quiet: list[float] = []
    disturbed: list[float] = []
    for answer in notes.answers:
        if answer.instance == notes.bystander:
            for a, b in pairwise(answer.times):
                inside = any(a <= end and b >= begin for begin, end in windows)
                (disturbed if inside else quiet).append(b - a)
    return quiet, disturbed


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that ``share`` of all do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    if not values:
        return {"count": 0, "median": None, "max": None}
    middle = round(statistics.median(values), 3)
    return {"count": len(values), "median": middle, "max": round(max(values), 3)}


def table(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, figure) lines for people; what is bad is marked by the caller."""
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        yield name.replace("_", " "), str(value)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
