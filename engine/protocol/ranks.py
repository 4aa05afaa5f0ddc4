"""The tp ranks of one step, over pipes that their supervisor made: rank 0 tells, the others do."""

from typing import Annotated

from msgspec import Meta

from engine.core import Plan
from engine.protocol.asks import Busy
from engine.protocol.base import Count, Decoder, Index, Message, Text
from engine.protocol.pool import FencedOff


class Start(Message, frozen=True):
    """The first message: what rank 0 has met, and whom holders know the step as."""

    key: Annotated[bytes, Meta(max_length=4096)]
    epoch: Count


class Run(Message, frozen=True):
    """The next step. A span without a table has the one of its sequence in the step before.

    Answer: Heard where it is poisoned, for whatever rank, else none.
    """

    plan: Plan


class Dial(Message, frozen=True):
    """Open a channel to this instance's pool."""

    instance: Index
    address: Text


class Drop(Message, frozen=True):
    """The instance is lost: close its channel, and forget the tables it had."""

    instance: Index


class ForgetTables(Message, frozen=True):
    """The instance has no table of this step any more."""

    instance: Index


class ForgetSequence(Message, frozen=True):
    """The sequence is done or starts over."""

    sequence: Count


class End(Message, frozen=True):
    """Rank 0 leaves, and so do all."""


class Heard(Message, frozen=True):
    """What a rank has learned of holders, which rank 0 may not know."""

    lost: dict[int, str]
    """instances, with the reason"""
    missed: list[Index]
    """instances that missed the deadline of the step"""
    declined: list[tuple[Index, FencedOff | Busy]]
    """what instances said instead of an answer"""


TO_RANK = Decoder(Start, Run, Dial, Drop, ForgetTables, ForgetSequence, End)
FROM_RANK = Decoder(Heard)
