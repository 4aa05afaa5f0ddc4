"""Pace: how long one request takes that has the cluster for itself, by the hardware's model."""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.planning.room import Room


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Of a prompt that an answer follows, with nobody else there."""

    ttft_s: float
    """sum of the prompt's steps"""
    tpot_s: float
    """of a token when the context is full"""
    lines: list[str]
    """the arithmetic, in words"""


def pace_of(times: StepTime, room: Room, *, prompt: int, context: int, step_tokens: int) -> Pace:
    """Leaves that are lent come first in the context; lenders share them evenly."""
    own, each = room.own_and_lent(context)
    num_lenders = room.lenders(context)
    held = {holder: Keys(1, each, each) for holder in range(1, num_lenders + 1)}
    decode_s = times.of(0, Work(1, 1, Keys(1, own, own), held)).seconds
    lines = times.costs.told(1, own)
    if held:
        alone_s = times.of(0, Work(1, 1, Keys(1, own, own))).seconds
        serving_s = times.costs.attention_s(each, each)
        trips_s = times.trip_s(0, num_lenders)
        lines.append(
            f"meanwhile each of {num_lenders} lenders reads {each:,} keys: "
            f"{serving_s * 1e3:.3f} ms + {trips_s * 1e3:.3f} ms for {times.model.num_layers} round "
            f"trips; only what is longer than the keys at home shows: "
            f"{(decode_s - alone_s) * 1e3:.3f} ms"
        )
    lines.append(f"a token at the full context: {decode_s * 1e3:.3f} ms")
    works = list(_prefill(prompt, step_tokens, own, num_lenders, context))
    seconds = [times.of(0, work).seconds for work in works]
    matrices_s = sum(times.costs.linear_s(work.num_rows, 1) for work in works)
    pairs = sum(work.own.pairs + sum(keys.pairs for keys in work.remote.values()) for work in works)
    lines.append(
        f"a prompt of {prompt:,} tokens: {len(works):,} steps of up to {step_tokens:,} rows, "
        f"{pairs:.4g} pairs of a row and a key: {matrices_s:,.2f} s of matrices + "
        f"{sum(seconds) - matrices_s:,.2f} s of attention = {sum(seconds):,.2f} s"
    )
    return Pace(ttft_s=sum(seconds), tpot_s=decode_s, lines=lines)


def _prefill(
    prompt: int, step_tokens: int, own: int, num_lenders: int, context: int
) -> Iterator[Work]:
    """The steps of a prompt, whose first tokens go to lenders until these have their share."""
    for first in range(0, prompt, step_tokens):
        rows = min(step_tokens, prompt - first)
        lent = min(first, context - own)
        each = lent / num_lenders if num_lenders else 0.0
        here = first - lent
        pairs = rows * (here + (rows + 1) / 2)
        held = {
            holder: Keys(rows, each, rows * each) for holder in range(1, num_lenders + 1) if each
        }
        yield Work(rows, int(first + rows >= prompt), Keys(rows, here + rows, pairs), held)


def told_s(seconds: float) -> str:
    """As many digits as say something."""
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"
