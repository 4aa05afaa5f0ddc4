"""A step's questions to a pool: tables, and the partials of each layer and slice."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.base import MAX_BLOCKS, Count, Index, Message, Seconds


class Attach(Message, frozen=True):
    """Which lent slots hold which leaves of a sequence; replaces an earlier table. No answer."""

    sequence: Count
    version: Count
    leaves: Annotated[list[tuple[Index, Count, Index]], Meta(max_length=MAX_BLOCKS)]
    """(leaf index, loan, slot), ascending by leaf"""


class Detach(Message, frozen=True):
    sequence: Count


class AskSpan(Struct, frozen=True, array_like=True, gc=False):
    """Query rows of one attached sequence: positions ``[first_position, + num_rows)``."""

    sequence: Count
    version: Count
    num_rows: Index
    first_position: Index


class AskedHeads(Struct, frozen=True, array_like=True, gc=False):
    """Query heads of one tp rank, and the KV heads that they read: equally many read each."""

    num_heads: Index
    first_kv_head: Index
    num_kv_heads: Index


class Begin(Message, frozen=True):
    """The step's spans, in slices; each slice is asked with one message a layer. No answer."""

    step: Count
    scale: float
    slices: Annotated[list[list[AskSpan]], Meta(max_length=1 << 16)]
    heads: AskedHeads | None = None
    """those that are asked for; None: all"""


class Ask(Message, frozen=True):
    """Queries ``q_THD`` of one slice are the body. Answer: Answer, Fenced or Busy."""

    step: Count
    layer: Index
    slice: Index


class Answer(Message, frozen=True):
    """Body: node rows ``out_RHD`` then ``lse_RH``, float32 (see attention/tree.py)."""

    step: Count
    layer: Index
    slice: Index


class Busy(Message, frozen=True):
    """The holder's own step comes first: the data is intact, ask again after ``for_s``."""

    step: Count
    for_s: Seconds
