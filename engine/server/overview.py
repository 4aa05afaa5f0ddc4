"""Overview: the cluster as ``GET /cluster`` shows it: instances, loans from both sides, requests.

Who lent says so in its pool's heartbeats, who borrowed in its step's reports: two accounts of the
same loans, told at different moments. Where nothing changes they are equal.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.protocol import Heartbeat, Load, Member, RequestLoad, View
from engine.scheduler.entry import Entry
from engine.scheduler.reports import tokens_of

Json = dict[str, Any]


def overview(members: Sequence[Member], view: View, entries: Iterable[Entry], now: float) -> Json:
    """Instances, ledger and requests. ``entries``: all that the gateway knows of its own ones."""
    beats = {beat.instance: beat for beat in view.pools}
    loads = {load.instance: load for load in view.steps}
    return {
        "instances": [
            _instance(member, beats.get(member.instance), loads.get(member.instance))
            for member in members
        ],
        "ledger": ledger(view),
        "requests": _requests(view, entries, now),
    }


def ledger(view: View) -> Json:
    """The loans of each pair, as its creditor and as its debtor know them, and both sums."""
    lent = {
        (debtor, beat.instance): num_blocks
        for beat in view.pools
        for debtor, num_blocks in beat.lent.items()
    }
    borrowed = {
        (load.instance, creditor): num_blocks
        for load in view.steps
        for creditor, num_blocks in load.borrowed.items()
    }
    loans = [
        {
            "debtor": debtor,
            "creditor": creditor,
            "lent": lent.get((debtor, creditor), 0),
            "borrowed": borrowed.get((debtor, creditor), 0),
        }
        for debtor, creditor in sorted(lent.keys() | borrowed.keys())
    ]
    return {"lent": sum(lent.values()), "borrowed": sum(borrowed.values()), "loans": loans}


def _instance(member: Member, beat: Heartbeat | None, load: Load | None) -> Json:
    pool = member if beat is None else beat  # of one moment: else its parts would not add up
    in_use = max(0, pool.num_blocks - pool.num_free - pool.num_lent)
    empty = max(0, pool.num_free - pool.num_cached)
    lent = {} if beat is None else _by_name(beat.lent)
    borrowed = {} if load is None else _by_name(load.borrowed)
    return {
        "id": member.instance,
        "epoch": member.epoch,
        "ready": bool(member.step_address),
        "draining": member.draining,
        "blocks": pool.num_blocks,
        "free": pool.num_free,
        "empty": empty if beat is None else beat.num_empty,
        "used": in_use if beat is None else beat.num_used,
        "cached": pool.num_cached,
        "lent": pool.num_lent,
        "lendable": pool.num_lendable,
        "lent_to": lent,
        "borrowed_from": borrowed,
        "running": 0 if load is None else load.num_running,
        "waiting": 0 if load is None else load.num_waiting,
        "step_ms": 0.0 if load is None else round(1e3 * load.step_s, 3),
    }


def _requests(view: View, entries: Iterable[Entry], now: float) -> list[Json]:
    """Those of this gateway, oldest first, then what came to the steps by other ways."""
    at_steps = {
        load.origins[sequence].request_id: (load, sequence)
        for load in view.steps
        for sequence in load.requests
        if sequence in load.origins
    }
    found = []
    for entry in sorted(entries, key=lambda one: one.arrived):
        at = at_steps.pop(entry.attempt_id, None)
        if not entry.done:  # its step may not have said so yet
            found.append(_of_entry(entry, at, now))
    return found + [_of_load(*at) for at in at_steps.values()]


def _of_entry(entry: Entry, at: tuple[Load, int] | None, now: float) -> Json:
    said = None if at is None else _of_load(*at)
    return {
        "id": entry.request.request_id,
        "state": "waiting" if said is None else said["state"],
        "instance": entry.instance,
        "attempt": entry.attempt,
        "prompt_tokens": len(entry.request.prompt_ids),
        "output_tokens": len(entry.token_ids),
        "computed_tokens": 0 if said is None else said["computed_tokens"],
        "blocks": {} if said is None else said["blocks"],
        "age_s": round(now - entry.arrived, 3),
    }


def _of_load(load: Load, sequence: int) -> Json:
    request, origin = load.requests[sequence], load.origins[sequence]
    num_output, num_computed = tokens_of(load, request)
    return {
        "id": origin.request_id.rpartition("#")[0] or origin.request_id,
        "state": request.state,
        "instance": load.instance,
        "attempt": None,
        "prompt_tokens": origin.num_prompt,
        "output_tokens": num_output,
        "computed_tokens": num_computed,
        "blocks": _blocks(request),
        "age_s": round(max(0.0, load.now_s - origin.arrived_s), 3),
    }


def _blocks(load: RequestLoad) -> dict[str, int]:
    return {str(share.instance): share.num_blocks for share in load.holders}


def _by_name(amounts: Mapping[int, int]) -> dict[str, int]:
    return {str(instance): num_blocks for instance, num_blocks in sorted(amounts.items())}
