"""Timing: each case run at two real instances; seconds, as a client sees them."""

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.measure.cases import GAPS, SETTLING, Decode, Sizes
from engine.measure.streams import Stream, Streams

BORROWER, LENDER = 0, 1
PREFILLS = 3
"""of each length; the median counts"""
PASSES = 2
"""over all decodes, some seconds apart; the quicker one counts, since others only ever disturb"""
BESIDE = 8
"""sequences that decode at both instances, or at a lender that is asked"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lent:
    """A decode of one sequence that is partly lent; keys in tokens."""

    own: int
    lent: int
    idle_s: float
    """a token, the lender idle"""
    busy_s: float
    """a token, the lender decoding"""
    lender_s: float
    """the lender's own step meanwhile"""


@dataclass(kw_only=True, slots=True)
class Times:
    """What was timed. Decodes and prefills are the lender's, which has its core for itself."""

    decodes: dict[Decode, float] = field(default_factory=dict)
    prefills: dict[int, float] = field(default_factory=dict)
    """rows of a prompt that is one step -> seconds to its token"""
    long_prefill_s: float = 0.0
    front_s: tuple[float, float] = (0.0, 0.0)
    """decodes of one and of BESIDE sequences at the instance whose cores frontend and planner
    share"""
    beside_s: list[tuple[float, float]] = field(default_factory=list)
    """a lender's step of BESIDE sequences alone, and right afterwards, while the other decodes as
    many; by pass"""
    lent: list[Lent] = field(default_factory=list)


class Timing:
    def __init__(self, streams: Streams, sizes: Sizes, max_step_tokens: int) -> None:
        self._streams = streams
        self._sizes = sizes
        self._step_tokens = max_step_tokens
        self._number = 0

    def run(self, progress: Callable[[str, int, int], None]) -> Times:
        """``progress``: (what is timed, done, of all)."""
        sizes, times = self._sizes, Times()
        few, many = (Decode(batch=batch, context=sizes.short) for batch in (1, BESIDE))
        fronts: dict[Decode, float] = {}
        total = PASSES * (len(sizes.decodes) + 3) + len(sizes.prefills) + 1
        total += len(sizes.lent_contexts)
        done = 0

        def next_one(what: str) -> None:
            nonlocal done
            progress(what, done, total)
            done += 1

        self._decode(LENDER, few)  # warms up
        for _ in range(PASSES):
            for case in sizes.decodes:
                next_one(f"decode of {case.batch} at {case.context} tokens")
                _keep_least(times.decodes, case, self._decode(LENDER, case))
            for case in (few, many):
                next_one(f"decode of {case.batch} beside the frontend")
                _keep_least(fronts, case, self._decode(BORROWER, case))
            next_one(f"decode of {BESIDE} beside as many")
            alone_s, beside_s = self._beside()
            times.beside_s.append((alone_s, beside_s))
        times.front_s = fronts[few], fronts[many]
        for rows in sizes.prefills:
            next_one(f"prefill of {rows} tokens")
            found = [self._prefill(LENDER, rows) for _ in range(PREFILLS)]
            times.prefills[rows] = statistics.median(found)
        next_one(f"prefill of {sizes.long} tokens")
        times.long_prefill_s = self._prefill(LENDER, sizes.long)
        for context in sizes.lent_contexts:
            next_one(f"decode at {context} tokens, partly lent")
            times.lent.append(self._lent(context))
        progress("done", total, total)
        return times

    def _start(self, instance: int, prompt: int, most: int) -> Stream:
        self._number += 1
        return self._streams.submit(instance, f"profile {self._number}", prompt, most)

    def _batch(self, instance: int, case: Decode, more: int = 0) -> list[Stream]:
        """All of them decode when this returns."""
        gather = 2 * -(-case.batch * case.context // self._step_tokens) + case.batch
        most = SETTLING + GAPS + gather + more
        batch = [self._start(instance, case.context, most) for _ in range(case.batch)]
        self._streams.until(*batch, tokens=SETTLING)
        return batch

    def _gap_s(self, stream: Stream) -> float:
        """The median of the next gaps; of the last ones where a quick model has ended before."""
        first = len(stream.times) - 1
        self._streams.until(stream, tokens=first + GAPS + 1, or_end=True)
        times = stream.times[max(0, min(first, len(stream.times) - 1 - GAPS)) :]
        return statistics.median(b - a for a, b in zip(times, times[1:], strict=False))

    def _decode(self, instance: int, case: Decode) -> float:
        batch = self._batch(instance, case)
        seconds = self._gap_s(batch[-1])
        self._streams.end(*batch)
        return seconds

    def _prefill(self, instance: int, rows: int) -> float:
        stream = self._start(instance, rows, 1)
        self._streams.until(stream, tokens=1)
        self._streams.reported(stream)
        return stream.times[0] - stream.sent_at

    def _beside(self) -> tuple[float, float]:
        case = Decode(batch=BESIDE, context=self._sizes.short)
        ours = self._batch(LENDER, case, more=10 * GAPS)
        alone = self._gap_s(ours[-1])
        theirs = self._batch(BORROWER, case, more=4 * GAPS)
        beside = self._gap_s(ours[-1])
        self._streams.end(*ours, *theirs)
        return alone, beside

    def _lent(self, context: int) -> Lent:
        most = 2 * GAPS + SETTLING + 4 * GAPS
        stream = self._start(BORROWER, context, most)
        self._streams.until(stream, tokens=SETTLING)
        idle_s = self._gap_s(stream)
        others = self._batch(LENDER, Decode(batch=BESIDE, context=self._sizes.short), 8 * GAPS)
        first = len(others[-1].times) - 1
        busy_s = self._gap_s(stream)
        times = others[-1].times[first:]
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        self._streams.end(*others)
        report = self._streams.reported(stream)
        own = Counter(report.holders)[BORROWER]
        lent = len(report.holders) - own
        tokens = self._sizes.block_tokens
        return Lent(
            own=own * tokens,
            lent=lent * tokens,
            idle_s=idle_s,
            busy_s=busy_s,
            lender_s=statistics.median(gaps) if gaps else 0.0,
        )


def _keep_least(known: dict[Decode, float], case: Decode, seconds: float) -> None:
    known[case] = min(seconds, known.get(case, seconds))
