"""Replay: an event log run again, to the same state, or to the first place where it differs."""

from contextlib import suppress
from typing import Any

import msgspec

from engine.errors import LendKVError
from engine.events import HASH, StateHash, read
from engine.events.log import no_log
from engine.memory.events import PoolHeader
from engine.scheduler.events import StepHeader
from engine.scheduler.planner_events import PlannerHeader

KINDS = StepHeader | PoolHeader | PlannerHeader


def replay(path: str) -> dict[str, Any]:
    """Figures of the run; ``differs_at``: the number of the input after which it was seen to."""
    header, events = read(path, KINDS)
    machine = header.make()
    state, made = StateHash(machine, header), None
    num_inputs, num_hashes, differs_at, error = 0, 0, None, ""
    for name, raw in events:
        if name == HASH:
            num_hashes += 1
            if raw != [state.now()]:
                differs_at = num_inputs
                break
            continue
        num_inputs += 1
        try:
            arguments = header.arguments(name, raw, made)
        except (msgspec.ValidationError, ValueError) as wrong:
            raise no_log(path, wrong) from wrong
        try:
            with suppress(LendKVError):  # an answer like any other
                answer = state.call(getattr(machine, name), arguments)
                made = answer if isinstance(answer, header.MADE) else made
        except Exception as raised:  # as it may have been, or because it differs: to be looked at
            error, differs_at = repr(raised), num_inputs
            break
    return {
        "machine": header.name,
        "inputs": num_inputs,
        "hashes": num_hashes,
        "state_hash": state.now().hex(),
        "differs_at": differs_at,
        "error": error,
    }


def replayed(figures: dict[str, Any]) -> str:
    """One sentence for people."""
    what = "{inputs:,} inputs of {machine}, state {state_hash}".format(**figures)
    if figures["error"]:
        return f"{what}: input {figures['differs_at']:,} raises {figures['error']}"
    if figures["differs_at"] is not None:
        return f"{what}: differs from the log; first seen after input {figures['differs_at']:,}"
    return f"{what}: the same as in the log at all {figures['hashes']:,} places"
