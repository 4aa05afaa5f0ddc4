"""A plan in words and as JSON: the answer first, then what it comes from, step by step."""

from collections.abc import Sequence
from typing import Any

from engine.sim.planning.choice import ALONE, Choice, Question
from engine.sim.planning.pace import told_s
from engine.sim.planning.room import told_model, told_room

HOUR_S = 3600.0


def device_hours(devices: int, tokens_per_s: float) -> float | None:
    """Of a million output tokens; None where none come."""
    return devices * 1e6 / tokens_per_s / HOUR_S if tokens_per_s > 0 else None


def as_json(question: Question, found: Sequence[Choice], best: Choice) -> dict[str, Any]:
    config = question.config
    return {
        "model": config.model,
        "hardware": config.hardware,
        "context": question.context,
        "weight_bytes": question.model.weight_bytes,
        "kv_token_bytes": question.model.kv_token_bytes,
        "context_bytes": question.context * question.model.kv_token_bytes,
        "best": _facts(question, best),
        "choices": [_facts(question, one) for one in found],
    }


def _facts(question: Question, choice: Choice) -> dict[str, Any]:
    room, config = choice.room, question.config
    facts: dict[str, Any] = {
        "devices": room.devices,
        "tp": room.tp,
        "instances": room.instances,
        "pool_blocks": room.pool_blocks,
        "pool_tokens": room.pool_tokens,
        "longest_alone": room.longest_alone,
        "longest_lending": room.longest_lending,
        "ttft_s": choice.pace.ttft_s,
        "tpot_s": choice.pace.tpot_s,
        "contexts_per_hour": choice.per_hour,
        "unmet": choice.unmet,
    }
    if choice.simulated:
        hours = device_hours(room.devices, choice.goodput(config.lending))
        facts |= {
            "goodput_alone": choice.goodput(ALONE),
            "goodput_lending": choice.goodput(config.lending),
            "tokens_per_s_alone": choice.rate(ALONE),
            "tokens_per_s_lending": choice.rate(config.lending),
            "refused_alone": choice.simulated[ALONE]["refused"],
            "device_hours_per_million": hours,
            "cost_per_million": hours * config.price if hours and config.price else None,
        }
    return facts


def as_text(question: Question, found: Sequence[Choice], best: Choice) -> str:
    config, room, pace, model = question.config, best.room, best.pace, question.model
    lines = [_answer(question, best), ""]

    def section(title: str, told: Sequence[str]) -> None:
        lines.append(title)
        lines.extend(f"  {line}" for line in told)
        lines.append("")

    told = told_model(model, question.context, config.block_tokens)
    if question.context > model.max_positions:
        told.append(
            f"its configuration names {model.max_positions:,} positions: memory holds a longer "
            "context, whether its answers are any good is another question"
        )
    section(f"1. {config.model} [arithmetic]", told)
    told = told_room(room, question.profile, model, question.context)
    section(
        f"2. {room.devices} devices as {room.instances} instances of tp={room.tp} [arithmetic]",
        told,
    )
    section(f"3. One request that is alone [hardware model: {config.hardware}]", pace.lines)
    section(
        "4. What was compared [as above; contexts an hour: one at a time in each instance; "
        "goodput: simulated]",
        _table(question, found),
    )
    if best.simulated:
        section("5. What the cluster serves [simulated]", _served(question, best))
        section("6. What that costs [arithmetic]", _cost(question, best))
    elif best.unmet:
        section("5. What the cluster serves [hardware model]", [best.unmet])
        section("6. What a context costs [arithmetic]", [_context_cost(question, best)])
    return "\n".join(lines).rstrip()


def _answer(question: Question, best: Choice) -> str:
    config, room, pace = question.config, best.room, best.pace
    borrowed = room.lenders(question.context)
    how = f"borrowing from {borrowed} others" if borrowed else "without borrowing"
    text = (
        f"{room.devices} devices: {room.instances} instances of tp={room.tp} with pools of "
        f"{room.pool_tokens:,} tokens. A context of {question.context:,} tokens fits, {how}; the "
        f"longest is {room.longest_lending:,}, without lending {room.longest_alone:,}."
    )
    for name, objective, alone in (
        ("ttft_s", config.ttft_s, pace.ttft_s),
        ("tpot_s", config.tpot_s, pace.tpot_s),
    ):
        if alone > objective:
            text += (
                f"\nThe objective {name}={objective:g} cannot be met at that length: even alone "
                f"it takes {told_s(alone)}."
            )
    return text


def _table(question: Question, found: Sequence[Choice]) -> list[str]:
    lending = question.config.lending
    rows = [
        [
            "tp",
            "instances",
            "pool",
            "longest alone",
            "with lending",
            "TTFT",
            "TPOT",
            "an hour",
            "goodput",
        ]
    ]
    for one in found:
        room, pace = one.room, one.pace
        goodput = f"{one.goodput(ALONE):,.1f}, lending {one.goodput(lending):,.1f}"
        rows.append(
            [str(room.tp), str(room.instances), f"{room.pool_tokens:,}"]
            + [f"{room.longest_alone:,}", f"{room.longest_lending:,}"]
            + [f"{pace.ttft_s:,.2f} s", f"{pace.tpot_s * 1e3:.1f} ms"]
            + [f"{one.per_hour:,.1f}", goodput if one.simulated else "0" if one.unmet else "-"]
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = (zip(row, widths, strict=True) for row in rows)
    return ["  ".join(cell.rjust(w) for cell, w in line).rstrip() for line in lines]


def _served(question: Question, best: Choice) -> list[str]:
    config, requests = question.config, question.requests
    span = requests[-1].at
    prompts, answers = (sum(getattr(one, name) for one in requests) for name in _LENGTHS)
    lines = [
        f"{len(requests):,} requests, {prompts:,} prompt and {answers:,} output tokens, "
        + (f"arriving over {span:,.1f} s" if span else "all there at the start"),
        f"goodput: output tokens a second of requests with a first token within {config.ttft_s:g} "
        f"s and later ones every {config.tpot_s:g} s",
    ]
    for name in (ALONE, config.lending):
        one = best.simulated[name]
        label = f"with lending ({name})" if name != ALONE else "without lending"
        lines.append(
            f"{label}: goodput {one['goodput']:,.1f} of {one['tokens_per_s']:,.1f} tokens/s; TTFT "
            f"{one['ttft_s']['p50']:.2f} s (p99 {one['ttft_s']['p99']:.2f}), TPOT "
            f"{one['tpot_s']['p50'] * 1e3:.1f} ms (p99 {one['tpot_s']['p99'] * 1e3:.1f}); "
            f"{one['refused']} refused, {one['preemptions']} preempted"
        )
    return lines


_LENGTHS = ("prompt_tokens", "output_tokens")


def _context_cost(question: Question, best: Choice) -> str:
    hours = best.room.devices / best.per_hour
    line = (
        f"{best.room.devices} devices / {best.per_hour:,.2f} contexts an hour = {hours:,.3f} "
        "device hours a context"
    )
    price = question.config.price
    return line + (f" x {price:g} = {hours * price:,.2f}" if price else "")


def _cost(question: Question, best: Choice) -> list[str]:
    config, devices = question.config, best.room.devices
    lines = []
    for label, name in (("without lending", ALONE), ("with lending", config.lending)):
        rate, what = best.goodput(name), "goodput"
        if not rate:
            rate, what = best.rate(name), "tokens/s, objectives unmet"
        hours = device_hours(devices, rate)
        if hours is None:
            lines.append(f"{label}: no tokens come")
            continue
        line = (
            f"{label}: {devices} devices x 1,000,000 / {rate:,.2f} {what} / 3,600 s = "
            f"{hours:,.3f} device hours a million output tokens"
        )
        if config.price:
            line += f" x {config.price:g} = {hours * config.price:,.2f}"
        lines.append(line)
    if not config.price:
        lines.append("price=... (of a device for an hour) makes that a cost")
    return lines
