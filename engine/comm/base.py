"""Transport: ordered message channels between two processes. Knows nothing of what they say."""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from engine.comm.watched import Watched

Buffer = bytes | bytearray | memoryview
NOTHING, WORKED = -1, -2
Watch = Callable[[Watched], int]


class NativeChannel(ctypes.Structure):
    """The same fields as NativeChannel in native/channel.h: addresses, one of them 0."""

    _fields_ = (("rings", ctypes.c_void_p), ("stream", ctypes.c_void_p))


class Channel(ABC):
    """A duplex conversation: messages arrive whole, in order, at most once, or the peer is lost.

    A message is a short ``head`` and a ``body`` of raw bytes. Neither side ever blocks in it.
    """

    peer: str
    """who is at the other end, for messages to people"""
    max_body_bytes: int
    """a larger body is the sender's mistake (ValueError); a larger one received loses the peer"""
    region: memoryview | None = None
    """read-only bytes of the peer's pool, where this transport can map them, else None"""

    @abstractmethod
    def send(self, head: bytes, *body: Buffer) -> None:
        """Queue one message and push out as much as goes without blocking.

        A head beyond 64 KiB takes its room from the body; ValueError when both are too long.
        The parts of ``body`` are joined on the way. Their memory must not change until
        ``unsent_bytes`` has passed them. Raises PeerLost once the channel is broken.
        """

    @abstractmethod
    def receive(self) -> tuple[bytes, memoryview] | None:
        """The next message, or None when there is none yet.

        The body is valid until the next call of ``receive`` on this channel, and aligned to 16
        bytes at least. Messages that
        arrived whole before a peer's death are still delivered; then raises PeerLost.
        """

    def native(self) -> int:
        """Address of a NativeChannel by which the native library may send and receive until the
        next call here, or 0: not now, or not on this transport. Ends the life of the last body."""
        return 0

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """Bytes queued here that the peer's buffer has not taken yet."""

    @abstractmethod
    def close(self) -> None:
        """End the conversation; the peer sees PeerLost. Safe to call twice."""


class Transport(ABC):
    """Makes channels. One thread uses it; another one may be in ``connect`` meanwhile."""

    watch: Watch | None = None
    """set by who can do some work meanwhile, where ``wait`` watches something before it sleeps:
    returns which has news, NOTHING, or WORKED: nothing else, but there was something to do"""

    @abstractmethod
    def listen(self) -> str:
        """Start to accept peers; returns the address they connect to. Called once at most.

        Raises ConfigError with the address when it is taken or not allowed.
        """

    @abstractmethod
    def accept(self) -> list[Channel]:
        """Channels that peers have opened since the last call. Never blocks."""

    @abstractmethod
    def connect(self, address: str, timeout_s: float) -> Channel:
        """Open a channel to a listener. Raises PeerLost at once when it is refused, or in time.

        Not from the thread that accepts there: some transports wait for its ``accept``.
        """

    @abstractmethod
    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        """The channels that have a message or are lost, waiting up to ``timeout_s`` for one.

        Pushes out queued messages meanwhile, but does not return because of that; waits at least a
        millisecond once it sleeps. Returns early, perhaps with an empty list, when a
        peer wants to connect or one of the file descriptors ``also`` is readable.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the listener and all channels made here. Safe to call twice."""
