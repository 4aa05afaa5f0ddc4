"""What all messages have in common: bounds, encoding, and decoding that never crashes."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine.errors import PeerLost

VERSION = 4
OLDEST = 4
"""the oldest version that is still understood: fields that were appended with a default need no new
one, so that neighbours of one version run side by side while a cluster is upgraded"""
MAX_BLOCKS = 1 << 20
"""blocks one message may name"""

Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Index = Annotated[int, Meta(ge=0, le=1 << 31)]
Blocks = Annotated[list[Index], Meta(max_length=MAX_BLOCKS)]
Text = Annotated[str, Meta(max_length=4096)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Priority = Annotated[int, Meta(ge=-1000, le=1000)]
Lease = Annotated[float, Meta(gt=0, le=3600)]
Content = Annotated[bytes, Meta(max_length=32)]
"""a block's chain hash (memory/blocks.py)"""
Sketch = Annotated[bytes, Meta(max_length=2048)]
"""which contents a pool has cached (memory/sketch.py)"""
Contents = Annotated[list[Content], Meta(max_length=MAX_BLOCKS)]


class Message(Struct, tag=True, frozen=True, array_like=True, gc=False):
    """Base of all messages; the class name is the tag on the wire."""


class Goodbye(Message, frozen=True):
    """The cluster, or this instance, is leaving."""


def version_fault(there: int, *, refuses: bool = False) -> str:
    """Why a process of that version is not talked to; empty when it is.

    One that is newer by one decides by itself whether it still understands this one, and
    ``refuses`` if it does not.
    """
    if OLDEST <= there <= VERSION + 1 and not refuses:
        return ""
    older = "the other side" if there < OLDEST else "this side"
    return (
        f"speaks version {there} of the protocol, and this lendkv versions {OLDEST} to {VERSION}: "
        f"upgrade {older}, one version at a time"
    )


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
