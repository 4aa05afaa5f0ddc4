"""Messages between processes, as msgspec structs with fixed bounds; no behaviour, no I/O.

Three conversations:

* step -> pool, over a Transport channel, in order: draws of the pool's own step, loans, block
  writes, tables and asks. The pool answers each with the message named beside it.
* pool and step -> planner, over the control channel: heartbeats and borrow queries.
* frontend -> step, over the control channel: requests and their tokens.

Nothing absolute travels: leases are durations in seconds.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine.errors import PeerLost

VERSION = 1
MAX_BLOCKS = 1 << 20
"""blocks one message may name"""

Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Index = Annotated[int, Meta(ge=0, le=1 << 31)]
Blocks = Annotated[list[Index], Meta(max_length=MAX_BLOCKS)]
Text = Annotated[str, Meta(max_length=4096)]


class Message(Struct, tag=True, frozen=True, array_like=True, gc=False):
    """Base of all messages; the class name is the tag on the wire."""


# --- a step and a pool -----------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a step on a channel. Answer: Welcome or Rejected."""

    protocol: Index
    cluster: Text
    instance: Index
    epoch: Count
    layout: Text


class Welcome(Message, frozen=True):
    instance: Index
    epoch: Count
    kernel: Text
    """fingerprint of the pool's kernel: equal fingerprints give equal bits"""
    num_blocks: Count


class Rejected(Message, frozen=True):
    """The pool will not talk to this peer; the channel is closed after it."""

    reason: Text


class Draw(Message, frozen=True):
    """The pool's own step wants free blocks. Answer: Drawn, with as many as there were."""

    num_blocks: Index
    staging: bool = False


class Drawn(Message, frozen=True):
    blocks: Blocks
    num_free: Count
    """free blocks left in the pool"""
    staging: bool = False


class Give(Message, frozen=True):
    """The pool's own step returns blocks it drew. No answer."""

    blocks: Blocks


class Reserve(Message, frozen=True):
    """A debtor asks for a loan; idempotent by ``reservation``. Answer: Granted or Refused."""

    reservation: Count
    num_blocks: Index
    lease_s: Annotated[float, Meta(gt=0, le=3600)]


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


class Begin(Message, frozen=True):
    """The step's spans, in slices; each slice is asked with one message a layer. No answer."""

    step: Count
    scale: float
    slices: Annotated[list[list[AskSpan]], Meta(max_length=1 << 16)]


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


class FencedOff(Message, frozen=True):
    """The pool's books do not match; ``step`` is 0 outside a step. ``loans`` are those that ended,
    empty when only the attached table is wrong."""

    step: Count
    loans: Blocks
    reason: Text


# --- pools, steps and the planner --------------------------------------------------------------


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


class Goodbye(Message, frozen=True):
    """The cluster, or this instance, is leaving."""


# --- frontend and step --------------------------------------------------------------------------


class Submit(Message, frozen=True):
    request_id: Text
    prompt_ids: Annotated[list[Index], Meta(max_length=1 << 24)]
    max_tokens: Index
    temperature: float
    top_p: float
    top_k: Index
    seed: Count
    ignore_eos: bool


class Tokens(Message, frozen=True):
    """New tokens of a request, the first of them number ``index``; the exact-once key."""

    request_id: Text
    index: Index
    token_ids: list[Index]
    finish_reason: Text = ""
    """empty while running; then stop or length"""


class Progress(Message, frozen=True):
    """Prompt tokens prefilled so far."""

    request_id: Text
    num_done: Count
    num_total: Count


class Failed(Message, frozen=True):
    request_id: Text
    reason: Text
    code: Text = "too_large"
    """too_large: it can never run here"""


class Abort(Message, frozen=True):
    request_id: Text


class Report(Message, frozen=True):
    """Where a finished request's context lay and what it cost. Sent after its last Tokens."""

    request_id: Text
    holders: Blocks
    """the instance that held each rBlock of the context, in order"""
    query_bytes: Count
    partial_bytes: Count
    moved_bytes: Count
    kv_bytes_avoided: Count
    steps_by_way: dict[str, int]
    recomputed_tokens: Count


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


class Decoder:
    """Decodes only the named messages; anything else is a lost peer, never a crash."""

    def __init__(self, *kinds: type[Message]) -> None:
        union: Any = kinds[0]
        for kind in kinds[1:]:
            union = union | kind
        self._decoder = msgspec.msgpack.Decoder(union)

    def __call__(self, data: bytes | memoryview) -> Any:
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise PeerLost(f"invalid message of {len(data)} bytes: {error}") from error


TO_POOL = Decoder(
    Hello, Draw, Give, Reserve, Renew, Release, Write, Read, Attach, Detach, Begin, Ask
)
FROM_POOL = Decoder(
    Welcome, Rejected, Drawn, Granted, Refused, Renewed, Released, Ack, Data, Answer, FencedOff
)
TO_PLANNER = Decoder(Heartbeat, BorrowQuery, Register, MembersQuery, Goodbye)
FROM_PLANNER = Decoder(BorrowOffer, Members, Goodbye)
TO_STEP = Decoder(Submit, Abort, Goodbye)
FROM_STEP = Decoder(Tokens, Progress, Failed, Report)
