"""Fit: from timed cases to what the simulator's model of a measured machine wants."""

import statistics
from itertools import accumulate

from engine.measure.cases import GAPS, SETTLING, Decode, Sizes
from engine.measure.timing import BESIDE, Times
from engine.sim.hardware.profile import Measured

MEANWHILE = SETTLING + GAPS / 2
"""tokens that a sequence has more when it is timed"""


def fit(times: Times, sizes: Sizes, layers: int) -> tuple[Measured, float]:
    """What was measured, and a question's way in seconds, one layer, one direction.

    A step is a sum: its rows, its sampled rows beyond the first, its keys, what is asked of others.
    Each term is what is left of a case when the terms before it are taken away.
    """
    short = sizes.short
    batches = [case.batch for case in times.decodes if case.context == short]

    def decode_s(batch: int) -> float:
        return times.decodes[Decode(batch=batch, context=short)]

    more = [
        (case.batch * (case.context - short), seconds - decode_s(case.batch))
        for case, seconds in times.decodes.items()
        if case.context != short
    ]
    keys = sum(n * n for n, _ in more)
    read_key_s = max(0.0, sum(n * s for n, s in more) / keys) if keys else 0.0
    control_s = max(0.0, times.prefills[1] - decode_s(1))
    pair_s = _pair_s(times, sizes, control_s, read_key_s)

    def own_pairs(rows: int) -> float:
        return rows * (rows - 1) / 2

    alone = {
        rows: seconds - control_s - read_key_s * rows - pair_s * own_pairs(rows)
        for rows, seconds in times.prefills.items()
    }
    first_s = decode_s(1) - read_key_s * (short + MEANWHILE)
    alone[1] = max(1e-6, first_s)
    rows_s = list(accumulate(alone.values(), max))  # more rows never take less time
    sampled_s = [
        max(0.0, decode_s(batch) - read_key_s * batch * (short + MEANWHILE) - known)
        for batch, known in zip(batches, (_at(alone, rows_s, n) for n in batches), strict=True)
    ]
    sampled_s = list(accumulate(sampled_s, max))
    beside = max(1.0, statistics.median(both / one for one, both in times.beside_s))
    ask_s, trips_s = _asks(times, first_s, read_key_s)
    answer_s, wait_s = _answers(times, first_s, read_key_s, beside, ask_s, trips_s)
    more_s = times.front_s[1] - times.front_s[0] - (decode_s(BESIDE) - decode_s(1))
    token_s = max(0.0, more_s / (BESIDE - 1))
    measured = Measured(
        rows=[float(rows) for rows in alone],
        rows_s=rows_s,
        batches=[float(batch) for batch in batches],
        batches_s=sampled_s,
        read_key_s=read_key_s,
        pair_s=pair_s,
        ask_s=ask_s,
        answer_s=answer_s,
        wait_s=wait_s,
        beside=beside,
        front_s=max(0.0, times.front_s[0] - decode_s(1) - token_s),
        token_s=token_s,
        control_s=control_s,
    )
    return measured, trips_s / (2 * layers)


def _at(alone: dict[int, float], rows_s: list[float], rows: int) -> float:
    """Of so many rows, or of the most that were timed."""
    known = dict(zip(alone, rows_s, strict=True))
    return known.get(rows, rows_s[-1])


def _pair_s(times: Times, sizes: Sizes, control_s: float, read_key_s: float) -> float:
    """From a long prompt, whose steps are as long as the longest that was timed alone."""
    step, steps = sizes.step_tokens, sizes.long // sizes.step_tokens
    one_s = times.prefills[max(times.prefills)] - control_s - read_key_s * step
    read = sum(n * step + step for n in range(steps))
    pairs = sum(step * (n * step + (step + 1) / 2) for n in range(steps))
    left_s = times.long_prefill_s - control_s - steps * one_s - read_key_s * read
    known = (pairs - read) - steps * step * (step - 1) / 2
    return max(0.0, left_s / known) if known > 0 else 0.0


def _asks(times: Times, first_s: float, read_key_s: float) -> tuple[float, float]:
    """What asking adds to a step in any case, and the round trips of all layers."""
    if not times.lent:
        return 0.0, 0.0
    near, far = times.lent[0], times.lent[-1]
    ask_s = max(0.0, near.idle_s - first_s - read_key_s * max(near.own, near.lent))
    both_s = max(0.0, far.idle_s - first_s - read_key_s * max(far.own, far.lent))
    ask_s = min(ask_s, both_s)
    hidden_s = max(0.0, read_key_s * (far.own - far.lent))
    return ask_s, both_s - ask_s + hidden_s


def _answers(
    times: Times, first_s: float, read_key_s: float, beside: float, ask_s: float, trips_s: float
) -> tuple[float, float]:
    """What a holder's device does for a step that asks it, its keys apart; and how much longer the
    answers take while it is in a step of its own."""
    if not times.lent or not times.lent[-1].lender_s:
        return 0.0, 0.0
    far, own_s = times.lent[-1], beside * min(one for one, _ in times.beside_s)
    each_s = max(0.0, far.lender_s - own_s) * far.busy_s / far.lender_s
    answer_s = max(0.0, each_s - read_key_s * far.lent)
    away_s = max(read_key_s * far.own, read_key_s * far.lent + trips_s)
    wait_s = max(0.0, far.busy_s - beside * first_s - away_s - ask_s)
    return answer_s, wait_s
