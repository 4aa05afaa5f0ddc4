"""Phases: the times of a request at its last step, read from its moments."""

from dataclasses import dataclass

from engine.protocol import Life


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds; None where a moment is missing that would tell."""

    queue_s: float | None
    """until it had memory and ran"""
    prefill_s: float | None
    """from then to the first token"""
    decode_s: float | None
    """from there to the end"""
    inference_s: float | None
    """all but the queue"""

    @staticmethod
    def of(life: Life) -> "Phases":
        first: dict[str, float] = {}
        for moment in life.moments:
            first.setdefault(moment.what, moment.at_s)

        def between(begin: str, end: str) -> float | None:
            return first[end] - first[begin] if {begin, end} <= first.keys() else None

        return Phases(
            between("queued", "started"),
            between("started", "first_token"),
            between("first_token", "ended"),
            between("started", "ended"),
        )


def times(life: Life, what: str) -> int:
    """How often such a moment came; ``what`` may be the beginning of its name."""
    return sum(moment.times for moment in life.moments if moment.what.startswith(what))


def amount(life: Life, what: str) -> int:
    """What all such moments amount to."""
    return sum(moment.amount for moment in life.moments if moment.what == what)
