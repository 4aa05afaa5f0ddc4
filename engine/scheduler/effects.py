"""What the I/O-free machines want done; the loop does it and reports back."""

from msgspec import Struct

from engine.core import BlockRef
from engine.protocol import Life, Message


class ToPool(Struct, frozen=True, gc=False):
    """Send to an instance's pool."""

    instance: int
    message: Message


class ToPlanner(Struct, frozen=True, gc=False):
    message: Message


class ToClient(Struct, frozen=True, gc=False):
    """Send to whoever submitted the request."""

    request_id: str
    message: Message


class Connect(Struct, frozen=True, gc=False):
    """Open a channel to an instance's pool, unless there is one."""

    instance: int
    address: str


class Move(Struct, frozen=True, gc=False):
    """Copy a sealed own block to a lent slot; reported back when the holder has committed it."""

    sequence: int
    leaf: int
    block: int
    to: BlockRef
    content: bytes
    """the block's chain hash"""


class Cancel(Struct, frozen=True, gc=False):
    """The leaf stays where it is: stop its Move or Fetch. Comes before its slot is released."""

    sequence: int
    leaf: int


class Fetch(Struct, frozen=True, gc=False):
    """Copy a lent block into an own one; reported back when it is whole."""

    sequence: int
    leaf: int
    ref: BlockRef
    block: int


class Finish(Struct, frozen=True, gc=False):
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
