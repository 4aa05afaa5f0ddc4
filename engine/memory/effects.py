"""What an RManager wants done, in the order given, before it is asked anything else."""

from dataclasses import dataclass

from engine.protocol import Data, FencedOff, Message


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this message to the peer."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class CopyIn:
    """Copy the body of the message just handled to ``offset`` of the block."""

    block: int
    offset: int


@dataclass(frozen=True, slots=True)
class CopyOut:
    """Send ``message`` with a copy of these bytes of the block as its body."""

    peer: int
    message: Data
    block: int
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Zero:
    """Fill the block with zeros."""

    block: int


@dataclass(frozen=True, slots=True)
class LosePeer:
    """Close the peer's channel, then report it with ``peer_lost``. Until then it is ignored."""

    peer: int
    reason: str


Output = Reply | CopyIn | CopyOut | Zero | LosePeer


class Violation(Exception):
    """A peer broke the protocol; becomes LosePeer. Raised before anything has changed."""


def fenced(peer: int, loan: int) -> Reply:
    return Reply(peer, FencedOff(0, [loan], f"loan {loan} has ended"))
