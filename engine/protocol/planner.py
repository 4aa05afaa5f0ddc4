"""Pools and steps to the planner, over control sockets: heartbeats and borrow queries."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.base import Count, Decoder, Goodbye, Index, Message, Text


class Heartbeat(Message, frozen=True):
    """A pool's state, sent often and whole. Answer: none."""

    instance: Index
    epoch: Count
    address: Text
    host: Text
    num_blocks: Count
    num_free: Count
    num_lendable: Count
    num_lent: Count
    num_lend_cap: Count
    """most blocks it would ever lend"""


class BorrowQuery(Message, frozen=True):
    """Who could lend this many blocks? Answer: BorrowOffer."""

    query: Count
    instance: Index
    host: Text
    num_blocks: Count


class Creditor(Struct, frozen=True, array_like=True, gc=False):
    """A pool as the planner last heard of it."""

    instance: Index
    epoch: Count
    address: Text
    host: Text
    num_lendable: Count


class BorrowOffer(Message, frozen=True):
    query: Count
    creditors: Annotated[list[Creditor], Meta(max_length=64)]
    num_lend_cap: Count
    """blocks all pools but the asker's own would ever lend: a need beyond it can never be met"""


class Register(Message, frozen=True):
    """A step is ready to serve at this control address. Answer: none."""

    instance: Index
    epoch: Count
    address: Text


class MembersQuery(Message, frozen=True):
    """Answer: Members."""


class Member(Struct, frozen=True, array_like=True, gc=False):
    instance: Index
    epoch: Count
    step_address: Text
    """empty until the step is ready"""
    num_blocks: Count
    num_free: Count
    num_lent: Count
    num_lendable: Count


class Members(Message, frozen=True):
    members: Annotated[list[Member], Meta(max_length=1 << 16)]


TO_PLANNER = Decoder(Heartbeat, BorrowQuery, Register, MembersQuery, Goodbye)
FROM_PLANNER = Decoder(BorrowOffer, Members, Goodbye)
