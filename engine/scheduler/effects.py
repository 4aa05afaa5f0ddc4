"""What the I/O-free machines want done; the loop does it and reports back."""

from dataclasses import dataclass

from engine.core import BlockRef
from engine.protocol import Life, Message


@dataclass(frozen=True, slots=True)
class ToPool:
    """Send to an instance's pool."""

    instance: int
    message: Message


@dataclass(frozen=True, slots=True)
class ToPlanner:
    message: Message


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send to whoever submitted the request."""

    request_id: str
    message: Message


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a channel to an instance's pool, unless there is one."""

    instance: int
    address: str


@dataclass(frozen=True, slots=True)
class Move:
    """Copy a sealed own block to a lent slot; reported back when the holder has committed it."""

    sequence: int
    leaf: int
    block: int
    to: BlockRef
    content: bytes
    """the block's chain hash"""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The leaf stays where it is: stop its Move or Fetch. Comes before its slot is released."""

    sequence: int
    leaf: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Copy a lent block into an own one; reported back when it is whole."""

    sequence: int
    leaf: int
    ref: BlockRef
    block: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The sequence ends, or starts over: drop its tables at the holders, stop its moves."""

    sequence: int
    request_id: str
    final: bool
    """it ends, and the client is owed a report"""
    holders: tuple[int, ...]
    """the instance that held each leaf when it ended"""
    recomputed_tokens: int
    life: Life


Effect = ToPool | ToPlanner | ToClient | Connect | Move | Cancel | Fetch | Finish
