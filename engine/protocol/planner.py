"""Pools, steps and the planner, over control sockets: heartbeats, borrow queries, advice."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.base import Count, Decoder, Goodbye, Index, Message, Seconds, Sketch, Text
from engine.protocol.reports import Heartbeat, Load, Resend


class Creditor(Struct, frozen=True, array_like=True, gc=False):
    """A pool as the planner last heard of it."""

    instance: Index
    epoch: Count
    address: Text
    host: Text
    num_lendable: Count
    num_cached: Count = 0


class Move(Message, frozen=True):
    """Planner to a step: lend blocks of a sequence to another instance (PAPER 2.3: move_kvcache).

    Advice: the step reserves first, and does nothing when the creditor refuses.
    """

    sequence: Count
    num_blocks: Count
    to: Creditor


class Settle(Message, frozen=True):
    """Planner to a step: bring blocks home from a creditor, one at a time (PAPER 2.2: DGFM).

    Part of a cycle of debts: each member's return makes the room for the next one's.
    """

    creditor: Index
    num_blocks: Count
    within_s: Seconds


class Freeze(Message, frozen=True):
    """Planner to a pool: for so long, blocks that come back are for the own step only.

    A lease, so that a planner that vanishes freezes nobody for ever.
    """

    num_blocks: Count
    for_s: Seconds


class Evacuate(Message, frozen=True):
    """An operator to the planner, the planner to the step: leave without losing anything.

    Running sequences are handed over, lent blocks called home; with ``leave`` the instance ends.
    """

    instance: Index
    leave: bool = True


class Lend(Message, frozen=True):
    """An operator to the planner, the planner to the pool: whether it lends.

    When it does not, what it lent is called home.
    """

    instance: Index
    on: bool


class BorrowQuery(Message, frozen=True):
    """Who could lend this many blocks? Answer: BorrowOffer.

    ``age_s`` and ``priority``: of the request that wants them; earlier ones come first.
    ``num_own``: blocks of its own pool that the step has for it beside these. ``part``: it runs,
    and takes what there is.
    """

    query: Count
    instance: Index
    host: Text
    num_blocks: Count
    age_s: Seconds = 0.0
    priority: int = 0
    num_own: Count = 0
    part: bool = False


class BorrowOffer(Message, frozen=True):
    """What may be borrowed now."""

    query: Count
    """0: nobody's. As much as this step was short of may be there now: who waits asks again"""
    creditors: Annotated[list[Creditor], Meta(max_length=64)]
    num_lend_cap: Count
    """blocks all pools but the asker's own would ever lend: a need beyond it can never be met. The
    most there can be, from a new planner which may not have heard of all pools yet"""
    is_held: bool = False
    """memory is held for this request: later ones are offered what it leaves"""


class Register(Message, frozen=True):
    """A step is ready to serve at this control address. Answer: none.

    With an empty address it serves no more.
    """

    instance: Index
    epoch: Count
    address: Text


class Join(Message, frozen=True):
    """An instance wants to belong to a running cluster. Answer: Joined or NotJoined.

    Asked again with the same ``ticket`` until it is answered: a new planner listens to the
    others first, so that it gives nobody a number that is in use.
    """

    protocol: Index
    layout: Text
    ticket: Count


class Joined(Message, frozen=True):
    ticket: Count
    instance: Index
    """the number to go by"""
    cluster: Text


class NotJoined(Message, frozen=True):
    ticket: Count
    reason: Text


class MembersQuery(Message, frozen=True):
    """Answer: Members, whole or what has changed since that number (scheduler/directory.py)."""

    since: Count = 0


class Member(Struct, frozen=True, array_like=True, gc=False):
    instance: Index
    epoch: Count
    step_address: Text
    """empty until the step is ready"""
    num_blocks: Count
    num_free: Count
    num_lent: Count
    num_lendable: Count
    num_cached: Count = 0
    pool_address: Text = ""
    draining: bool = False
    sketch: Sketch | None = b""
    """None: unchanged"""
    lends: bool = True


class Members(Message, frozen=True):
    members: Annotated[list[Member], Meta(max_length=1 << 16)]
    there: Annotated[list[Index], Meta(max_length=1 << 16)] = []
    """all that are; others have gone"""
    number: Count = 0
    """of the last change in it"""
    since: Count = 0
    """0: it is whole"""


class ViewQuery(Message, frozen=True):
    """Answer: View."""


class View(Message, frozen=True):
    """All that the planner knows of the living, as they said it."""

    pools: Annotated[list[Heartbeat], Meta(max_length=1 << 16)]
    steps: Annotated[list[Load], Meta(max_length=1 << 16)]


TO_PLANNER = Decoder(
    Heartbeat, Load, BorrowQuery, Register, Join, MembersQuery, ViewQuery, Evacuate, Lend, Goodbye
)
FROM_PLANNER = Decoder(
    BorrowOffer,
    Members,
    View,
    Joined,
    NotJoined,
    Move,
    Settle,
    Freeze,
    Evacuate,
    Lend,
    Resend,
    Goodbye,
)
