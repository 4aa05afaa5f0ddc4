"""Control sockets (ZMQ): many clients, one server, messages of engine.protocol. Off the layer path.

Delivery is at most once and in order while a connection lasts; a peer that comes back is a new
peer. ZMQ's descriptor is edge-triggered: before sleeping on ``fileno()``, ask ``pending()``.
What passes is authenticated: control_talk.py.
"""

import logging
import math
from collections import OrderedDict, deque
from contextlib import suppress
from time import monotonic
from typing import Any

import zmq

from engine.comm.auth import OTHER_KEY, Session, new_nonce
from engine.comm.control_talk import (
    CHALLENGE,
    DATA,
    HEAD,
    HELLO,
    NO_NONCE,
    NO_TAG,
    REFUSED,
    Talk,
)
from engine.errors import ConfigError, PeerLost
from engine.protocol import VERSION, Decoder, Message, encode, version_fault

log = logging.getLogger(__name__)

MAX_QUEUED = 10_000
"""messages to or from one peer"""
MAX_MESSAGE_BYTES = 16 << 20
MAX_PEERS = 1 << 16
"""connections a server remembers; the longest silent is forgotten first"""
LINGER_MS = 200
"""how long a farewell may take to leave after close"""
HELLO_EVERY_S = 0.5
"""how often a client without a session knocks; a server may die before it answers"""


class _Socket:
    """Common to both ends. The ZMQ context, and with it its threads, begins with the first use."""

    kind: int

    def __init__(self, decode: Decoder, key: bytes) -> None:
        self._decode = decode
        self._key = key
        self._context: zmq.Context[Any] | None = None
        self._socket: zmq.Socket[Any] | None = None
        self.num_dropped = 0
        """messages that made no sense"""

    def fileno(self) -> int:
        return int(self._open().getsockopt(zmq.FD))

    def pending(self) -> bool:
        """Whether ``receive`` has something now."""
        return bool(int(self._open().getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def close(self) -> None:
        """Safe to call twice."""
        if self._socket is not None and self._context is not None:
            self._socket.close(linger=LINGER_MS)
            self._context.term()
        self._socket = self._context = None

    def _open(self) -> "zmq.Socket[Any]":
        if self._socket is None:
            self._context = zmq.Context()
            self._socket = self._context.socket(self.kind)
            self._socket.setsockopt(zmq.SNDHWM, MAX_QUEUED)
            self._socket.setsockopt(zmq.RCVHWM, MAX_QUEUED)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        return self._socket

    def _frames(self, timeout_s: float) -> list[list[bytes]]:
        """What has arrived, waiting up to ``timeout_s`` for the first."""
        socket = self._open()
        arrived: list[list[bytes]] = []
        if not self.pending() and not socket.poll(math.ceil(timeout_s * 1000)):
            return arrived
        while len(arrived) < MAX_QUEUED:
            try:
                arrived.append(socket.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                break
        return arrived

    def _decoded(self, payload: bytes) -> Message | None:
        try:
            message: Message = self._decode(payload)
            return message
        except PeerLost as error:
            self._drop(str(error))
            return None

    def _drop(self, why: str) -> None:
        self.num_dropped += 1
        if self.num_dropped & (self.num_dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            log.warning("dropped control message number %d: %s", self.num_dropped, why)


class ControlServer(_Socket):
    kind = zmq.ROUTER

    def __init__(self, decode: Decoder, key: bytes = b"") -> None:
        super().__init__(decode, key)
        self._talks: OrderedDict[bytes, Talk] = OrderedDict()

    def bind(self, host: str, port: int) -> str:
        """Returns the address for clients; port 0 takes a free one. Raises ConfigError."""
        socket = self._open()
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            used = "another cluster may be there: choose another cluster.port, or 0 for a free one"
            raise ConfigError(
                f"cluster.host={host} and cluster.port={port}: cannot listen there for control "
                f"messages ({error.strerror}); "
                + (used if error.errno == zmq.EADDRINUSE else "give an address of this host")
            ) from error
        return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def receive(self, timeout_s: float) -> list[tuple[bytes, Message]]:
        """Messages with their senders, oldest first; empty after ``timeout_s``, or earlier."""
        arrived = [(frames[0], self._take(frames)) for frames in self._frames(timeout_s)]
        return [(peer, message) for peer, message in arrived if message is not None]

    def send(self, peer: bytes, message: Message) -> None:
        """Raises PeerLost when the peer is gone or has stopped reading."""
        talk = self._talks.get(peer)
        if talk is None or talk.session is None:
            raise PeerLost(f"control peer {peer.hex()} is not known")
        self._say(peer, *talk.wrap(encode(message)))

    def _take(self, frames: list[bytes]) -> Message | None:
        """A member's message; strangers are answered or dropped."""
        peer, head = frames[0], frames[1] if len(frames) > 1 else b""
        if len(frames) != 3 or len(head) != HEAD.size:
            self._drop(f"{len(frames)} frames that are no message")
            return None
        kind, client_nonce, server_nonce, number, _ = HEAD.unpack(head)
        talk = self._talks.get(peer)
        if kind == HELLO and (fault := version_fault(number)):
            self._answer(peer, REFUSED, NO_NONCE, VERSION)
            self._drop(f"a control peer {fault}")
            return None
        if kind == HELLO or talk is None or server_nonce != talk.server_nonce:
            self._challenge(peer)
            return None
        session = talk.session or Session(self._key, client_nonce, server_nonce, dials=False)
        try:
            talk.check(session, head, frames[2])
        except PeerLost as error:
            self._drop(str(error))
            if talk.session is None:
                self._answer(peer, REFUSED, server_nonce)
            return None
        talk.session, talk.client_nonce = session, client_nonce
        self._talks.move_to_end(peer)
        return self._decoded(frames[2])

    def _challenge(self, peer: bytes) -> None:
        """The same one until it is met: a client may knock several times before it hears."""
        talk = self._talks.get(peer)
        if talk is None or talk.session is not None:
            talk = self._talks[peer] = Talk(new_nonce())
            while len(self._talks) > MAX_PEERS:
                self._talks.popitem(last=False)
        self._answer(peer, CHALLENGE, talk.server_nonce, VERSION)

    def _answer(self, peer: bytes, kind: bytes, server_nonce: bytes, number: int = 0) -> None:
        with suppress(PeerLost):  # it asked and left
            self._say(peer, HEAD.pack(kind, NO_NONCE, server_nonce, number, NO_TAG), b"")

    def _say(self, peer: bytes, head: bytes, payload: bytes) -> None:
        try:
            self._open().send_multipart([peer, head, payload], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise PeerLost(f"control peer {peer.hex()}: {error}") from error


class ControlClient(_Socket):
    """Its ``send`` and ``receive`` raise ConfigError once the server refuses this side's key, or
    speaks another version."""

    kind = zmq.DEALER

    def __init__(self, address: str, decode: Decoder, key: bytes = b"") -> None:
        super().__init__(decode, key)
        self.address = address
        self._talk: Talk | None = None
        self._outbox: deque[bytes] = deque()
        self._inbox: deque[Message] = deque()
        self._next_hello = 0.0

    def pending(self) -> bool:
        return bool(self._inbox) or super().pending()

    def receive(self, timeout_s: float) -> list[Message]:
        """Messages of the server, oldest first; empty after ``timeout_s``."""
        deadline = monotonic() + timeout_s
        self._push()
        while True:
            self._pump(max(0.0, min(deadline - monotonic(), HELLO_EVERY_S)))
            if self._inbox or monotonic() >= deadline:
                messages = list(self._inbox)
                self._inbox.clear()
                return messages

    def send(self, message: Message) -> None:
        """Queued until the server is there. Raises PeerLost when the queue is full."""
        if len(self._outbox) >= MAX_QUEUED:
            raise PeerLost(f"control server {self.address} does not answer")
        self._outbox.append(encode(message))
        self._pump(0.0)

    def close(self) -> None:
        deadline = monotonic() + LINGER_MS / 1000
        with suppress(ConfigError):
            while self._socket is not None and self._outbox and monotonic() < deadline:
                self._pump(deadline - monotonic())
        super().close()

    def _pump(self, timeout_s: float) -> None:
        """Take what has come, then send what may go."""
        if self._inbox:
            timeout_s = 0.0
        for frames in self._frames(timeout_s):
            self._take(frames)
        self._push()

    def _push(self) -> None:
        socket = self._open()
        try:
            if self._talk is None:
                if self._outbox and monotonic() >= self._next_hello:
                    self._next_hello = monotonic() + HELLO_EVERY_S
                    hello = HEAD.pack(HELLO, NO_NONCE, NO_NONCE, VERSION, NO_TAG)
                    socket.send_multipart([hello, b""], zmq.DONTWAIT)
                return
            while self._outbox:
                socket.send_multipart(self._talk.wrap(self._outbox[0]), zmq.DONTWAIT)
                self._outbox.popleft()
        except zmq.Again:  # it does not read
            pass
        except zmq.ZMQError as error:
            raise PeerLost(f"control server {self.address}: {error}") from error

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 2 or len(frames[0]) != HEAD.size:
            self._drop(f"{len(frames)} frames that are no message")
            return
        kind, _, server_nonce, number, _ = HEAD.unpack(frames[0])
        talk = self._talk
        tells_version = number and kind in (CHALLENGE, REFUSED)
        if tells_version and (fault := version_fault(number, refuses=kind == REFUSED)):
            raise ConfigError(f"{self.address} {fault}")
        if kind == CHALLENGE and (talk is None or server_nonce != talk.server_nonce):
            nonce = new_nonce()
            session = Session(self._key, nonce, server_nonce, dials=True)
            self._talk = Talk(server_nonce, nonce, session)
        elif kind == REFUSED:
            raise ConfigError(f"{self.address} {OTHER_KEY}")
        elif kind == DATA and talk is not None and talk.session is not None:
            try:
                talk.check(talk.session, *frames)
            except PeerLost as error:
                self._drop(str(error))
                return
            if (message := self._decoded(frames[1])) is not None:
                self._inbox.append(message)

    def _open(self) -> "zmq.Socket[Any]":
        if self._socket is None:
            socket = super()._open()
            try:
                socket.connect(self.address)
            except zmq.ZMQError as error:
                super().close()
                raise ConfigError(f"{self.address!r} is no control address: {error}") from error
        return super()._open()
