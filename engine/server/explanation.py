"""Explanation: the life of one request, as ``GET /cluster/requests/ID`` tells it."""

import asyncio
from collections import Counter
from typing import Any

from fastapi import APIRouter, Request

from engine.protocol import Life
from engine.scheduler.entry import Attempt, Entry
from engine.server.api_keys import ANYBODY
from engine.server.gateway import Gateway
from engine.server.phases import Phases
from engine.server.problems import Problem

Json = dict[str, Any]

ASK_S, LOOK_S = 1.0, 0.02
"""how long a step may take to tell of a running request, and between two looks whether it has"""


def build_router(gateway: Gateway) -> APIRouter:
    """The route; it knows requests that run, and those that ended in the last minutes."""
    router = APIRouter()

    @router.get("/cluster/requests/{request_id:path}")
    async def explain(request: Request, request_id: str) -> Json:
        """The life of a request: attempts, waits, loans, recomputed tokens, times."""
        entry = gateway.table.entries.get(request_id)
        tenant = getattr(request.state, "tenant", ANYBODY)
        if entry is None or (tenant.name and entry.request.tenant != tenant.name):
            raise Problem(
                404,
                f"There is no request {request_id!r}: it is the `id` of an answer (with /0, /1 ... "
                "where n is above 1), and is known until some minutes after its end.",
            )
        if entry.report is None and entry.address and not entry.done:
            before = entry.attempts[-1].life
            gateway.ask_life(entry)
            for _ in range(round(ASK_S / LOOK_S)):
                if entry.attempts[-1].life is not before:
                    break
                await asyncio.sleep(LOOK_S)
        return explanation(entry, gateway.now())

    return router


def explanation(entry: Entry, now: float) -> Json:
    """All times in seconds since the request was accepted, None where it has not come so far."""
    end = now if entry.ended_at is None else entry.ended_at
    later = len(entry.token_ids) - 1
    first, last = entry.first_token_at, entry.last_token_at
    return {
        "id": entry.request.request_id,
        "state": _state(entry),
        "finish_reason": entry.finish_reason or None,
        "error": entry.error or None,
        "prompt_tokens": len(entry.request.prompt_ids),
        "output_tokens": len(entry.token_ids),
        "max_tokens": entry.request.sampling.max_tokens,
        "age_s": round(end - entry.arrived, 6),
        "ttft_s": None if first is None else round(first - entry.arrived, 6),
        "tpot_s": round((last - first) / later, 6) if first and last and later > 0 else None,
        "attempts": [_attempt(one) for one in entry.attempts],
        "blocks": {} if entry.report is None else _blocks(entry.report.holders),
        "recomputed_tokens": None if entry.report is None else entry.report.recomputed_tokens,
    }


def _state(entry: Entry) -> str:
    if entry.done:
        return "failed" if entry.error else "ended"
    if not entry.address:
        return "without an instance"
    return "waiting" if entry.started_at is None else "running"


def _attempt(attempt: Attempt) -> Json:
    life = attempt.life
    told = Life() if life is None else life
    phases = Phases.of(told)
    return {
        "number": attempt.number,
        "instance": attempt.instance,
        "why": attempt.why,
        "began_s": round(attempt.began_s, 6),
        "tokens_before": attempt.num_tokens,
        "is_known": life is not None,
        "queue_s": phases.queue_s,
        "prefill_s": phases.prefill_s,
        "decode_s": phases.decode_s,
        "asked_s": {str(instance): round(s, 6) for instance, s in sorted(told.trip_s.items())},
        "moments": [
            {
                "what": moment.what,
                "at_s": round(moment.at_s, 6),
                "until_s": round(moment.until_s, 6),
                "instance": None if moment.instance < 0 else moment.instance,
                "times": moment.times,
                "amount": moment.amount,
            }
            for moment in told.moments
        ],
        "moments_left_out": told.num_left_out,
    }


def _blocks(holders: list[int]) -> dict[str, int]:
    return {str(instance): number for instance, number in sorted(Counter(holders).items())}
