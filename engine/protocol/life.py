"""The life of a request at a step, as moments; and how somebody asks for it."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.base import Count, Index, Message, Seconds, Text


class Moment(Struct, frozen=True, array_like=True, gc=False):
    """Something that befell a request, or went on for a while."""

    what: Text
    """see scheduler/chronicle.py"""
    at_s: Seconds
    """since the request was accepted"""
    until_s: Seconds
    instance: int = -1
    """whom it concerns beside the step's own; -1: nobody"""
    times: Count = 1
    amount: Count = 0
    """in all: blocks or tokens, as ``what`` has it"""


class Life(Struct, frozen=True, array_like=True, gc=False):
    moments: Annotated[list[Moment], Meta(max_length=1 << 12)] = []
    num_left_out: Count = 0
    """moments from the middle of a long life that are not kept"""
    trip_s: dict[Index, float] = {}
    """seconds from questions to their answers, by holder; mostly hidden behind own work"""


class Explain(Message, frozen=True):
    """How is this request? Answer: Explained, or nothing when it is not here."""

    request_id: Text


class Explained(Message, frozen=True):
    request_id: Text
    life: Life
