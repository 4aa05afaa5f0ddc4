"""Replay: an event log run again, to the same state, or to the first place where it differs."""

import functools
import operator
from typing import Any

import msgspec

from engine import protocol
from engine.core import Plan
from engine.protocol import Message
from engine.scheduler import PLACEMENTS
from engine.scheduler.events import HASH, INPUTS, StateHash, read_events
from engine.scheduler.scheduler import Scheduler


def replay(path: str) -> dict[str, Any]:
    """Figures of the run; ``differs_at``: the number of the input after which it was seen to."""
    header, events = read_events(path)
    kind = PLACEMENTS.load(header.placement)
    scheduler = Scheduler(
        header.scheduler,
        instance=header.instance,
        host=header.host,
        layout=header.layout,
        placement=kind(msgspec.convert(header.options, kind.Config)),
        num_blocks=header.num_blocks,
        max_positions=header.max_positions,
        eos_ids=header.eos_ids,
        epoch=header.epoch,
    )
    state, plan = StateHash(), None
    num_inputs, num_hashes, differs_at, error = 0, 0, None, ""
    for name, raw in events:
        if name == HASH:
            num_hashes += 1
            if raw[0] != state.of(scheduler):
                differs_at = num_inputs
                break
            continue
        num_inputs += 1
        arguments = [
            plan if kind is Plan else _convert(value, kind)
            for value, kind in zip(raw, INPUTS[name], strict=True)
        ]
        try:
            result = getattr(scheduler, name)(*arguments)
        except Exception as raised:  # as it may have been, or because it differs: to be looked at
            error, differs_at = repr(raised), num_inputs
            break
        if name == "schedule":
            plan = result or plan
            state.on_plan(result)
        state.on_effects(scheduler.take_effects())
    return {
        "instance": header.instance,
        "inputs": num_inputs,
        "hashes": num_hashes,
        "state_hash": state.of(scheduler).hex(),
        "differs_at": differs_at,
        "error": error,
    }


def replayed(figures: dict[str, Any]) -> str:
    """One sentence for people."""
    what = "{inputs:,} inputs of instance {instance}, state {state_hash}".format(**figures)
    if figures["error"]:
        return f"{what}: input {figures['differs_at']:,} raises {figures['error']}"
    if figures["differs_at"] is not None:
        return f"{what}: differs from the log; first seen after input {figures['differs_at']:,}"
    return f"{what}: the same as in the log at all {figures['hashes']:,} places"


def _convert(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, _messages() if kind is Message else kind)


@functools.cache
def _messages() -> Any:
    """The union of all messages: the tag says which one it is."""
    kinds = [one for one in vars(protocol).values() if _is_message(one)]
    return functools.reduce(operator.or_, kinds)


def _is_message(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, Message) and one is not Message
