"""A step and a pool, over a Transport channel, in order; answers are named beside each message."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.asks import Answer, Ask, Attach, Begin, Busy, Detach
from engine.protocol.base import (
    MAX_BLOCKS,
    Blocks,
    Content,
    Contents,
    Count,
    Decoder,
    Index,
    Lease,
    Message,
    Priority,
    Seconds,
    Text,
)


class Hello(Message, frozen=True):
    """First message of a step on a channel. Answer: Welcome or Rejected."""

    protocol: Index
    cluster: Text
    instance: Index
    epoch: Count
    layout: Text
    rank: Index = 0
    """of the tp ranks of the instance's step; others than 0 attach tables and ask, no more"""


Handle = Annotated[bytes, Meta(max_length=4096)]


class GpuMemory(Struct, frozen=True, array_like=True, gc=False):
    """Where a pool's blocks lie on a GPU, for processes of its host (gpu_memory.py)."""

    gpu: Text
    """its UUID"""
    handle: Handle
    num_bytes: Count
    offset: Count
    """the blocks are those bytes of what the handle opens"""
    counter: Handle
    """of those who have it open, in named shared memory of PyTorch's; and where in it"""
    counter_offset: Count


class Welcome(Message, frozen=True):
    instance: Index
    epoch: Count
    kernel: Text
    """fingerprint of the pool's kernel: equal fingerprints give equal bits"""
    num_blocks: Count
    gpu: GpuMemory | None = None
    """the blocks, where what the transport maps of the pool has generations alone"""


class Rejected(Message, frozen=True):
    """The pool will not talk to this peer; the channel is closed after it."""

    reason: Text


class Draw(Message, frozen=True):
    """The pool's own step wants free blocks. Answer: Drawn, with as many as there were."""

    num_blocks: Index
    staging: bool = False
    recall: bool = False
    """call lent blocks back for what is missing; they are kept for the next Draw"""
    host: bool = False
    """also from host memory, which is the last resort"""
    contents: Contents = []
    """all that is cached of these comes first, and counts"""


class Drawn(Message, frozen=True):
    blocks: Blocks
    num_free: Count
    """free blocks left in the pool"""
    staging: bool = False
    num_recalled: Count = 0
    """blocks on their way back for this step: free within ``recall_s`` at the latest"""
    recall_s: float = 0.0
    num_host: Count = 0
    """of the blocks, those that are host memory"""
    found: Blocks = []
    """indexes into the contents asked for"""
    cached: Blocks = []
    """the blocks that hold them: to be read, never written, and given back like others"""


class Give(Message, frozen=True):
    """The pool's own step returns blocks it drew. No answer."""

    blocks: Blocks
    contents: Contents = []
    """chain hash of each block, to be kept for whoever pins it; empty, or empty bytes: freed"""


class Evicted(Message, frozen=True):
    """The pool to its own step, where KV events are wanted: of what it gave with a content, one
    block each is cached no more, or was not kept, since another was. No answer."""

    contents: Contents


class Strain(Message, frozen=True):
    """The pool's own step misses its token times: keep others' computations out for so long.

    No answer. While it lasts the pool answers Ask with Busy.
    """

    for_s: Seconds


class Reserve(Message, frozen=True):
    """A debtor asks for a loan; idempotent by ``reservation``. Answer: Granted or Refused."""

    reservation: Count
    num_blocks: Index
    lease_s: Lease
    age_s: Seconds = 0.0
    """how long the request has waited; the creditor calls blocks back from younger ones for it"""
    priority: Priority = 0
    """and from those of a higher number first"""


class Granted(Message, frozen=True):
    reservation: Count
    loan: Count
    blocks: Blocks
    generations: Annotated[list[Count], Meta(max_length=MAX_BLOCKS)]
    lease_s: float


class Refused(Message, frozen=True):
    reservation: Count
    num_lendable: Count


class Renew(Message, frozen=True):
    """Keep these loans for another lease. Answer: Renewed with those that still stand."""

    loans: Blocks


class Renewed(Message, frozen=True):
    loans: Blocks


class Release(Message, frozen=True):
    """Give back slots of a loan, or the whole loan when ``slots`` is empty. Answer: Released."""

    loan: Count
    slots: Blocks = []
    keep: bool = False
    """committed slots with a content hash stay cached at the holder"""


class Recall(Message, frozen=True):
    """The creditor wants slots back: Release them within ``within_s``, or they are taken.

    What is taken is gone: the debtor hears FencedOff with the loan. Answer: Release.
    """

    loan: Count
    slots: Blocks
    within_s: Seconds


class Pin(Message, frozen=True):
    """Lend me, for reading, those of these contents that you have; idempotent by ``reservation``.

    Answer: Pinned. A pin is a loan of committed slots: renewed, attached, read, released like one.
    """

    reservation: Count
    contents: Contents
    lease_s: Lease


class Pinned(Message, frozen=True):
    reservation: Count
    loan: Count
    """0 when nothing was found"""
    found: Blocks
    """indexes into the contents asked for, ascending; slot i of the loan holds ``found[i]``"""
    blocks: Blocks
    generations: Annotated[list[Count], Meta(max_length=MAX_BLOCKS)]
    lease_s: float


class Released(Message, frozen=True):
    loan: Count
    slots: Blocks


class Write(Message, frozen=True):
    """Part of a sealed rBlock for a lent slot; bytes at ``offset`` are the body.

    The part with ``last`` commits the slot. Answer to that part: Ack.
    """

    loan: Count
    slot: Index
    offset: Count
    last: bool
    content: Content = b""
    """in the last part: the block's chain hash, empty when unknown"""
    checksum: Count = 0
    """in the last part: CRC-32 of the whole block plus one; 0 when not computed"""


class Ack(Message, frozen=True):
    loan: Count
    slot: Index


class Read(Message, frozen=True):
    """Fetch part of a committed slot (way ``copy``). Answer: Data with the bytes as body."""

    loan: Count
    slot: Index
    offset: Count
    num_bytes: Count


class Data(Message, frozen=True):
    loan: Count
    slot: Index
    offset: Count


class FencedOff(Message, frozen=True):
    """The pool's books do not match; ``step`` is 0 outside a step. ``loans`` are those that ended,
    empty when only the attached table is wrong."""

    step: Count
    loans: Blocks
    reason: Text


TO_POOL = Decoder(
    Hello,
    Draw,
    Give,
    Strain,
    Reserve,
    Pin,
    Renew,
    Release,
    Write,
    Read,
    Attach,
    Detach,
    Begin,
    Ask,
)
FROM_POOL = Decoder(
    Welcome,
    Rejected,
    Drawn,
    Evicted,
    Granted,
    Refused,
    Pinned,
    Renewed,
    Released,
    Recall,
    Ack,
    Data,
    Answer,
    Busy,
    FencedOff,
)
