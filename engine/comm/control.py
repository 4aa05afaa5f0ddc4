"""Control sockets (ZMQ): many clients, one server, messages of engine.protocol. Off the layer path.

Delivery is at most once and in order while a connection lasts; a peer that comes back is a new
peer. ZMQ's descriptor is edge-triggered: before sleeping on ``fileno()``, ask ``pending()``.
"""

import logging
import math
from typing import Any

import zmq

from engine.errors import ConfigError, PeerLost
from engine.protocol import Decoder, Message, encode

log = logging.getLogger(__name__)

MAX_QUEUED = 10_000
"""messages to or from one peer"""
MAX_MESSAGE_BYTES = 64 << 20
LINGER_MS = 200
"""how long a farewell may take to leave after close"""


class _Socket:
    """Common to both ends. The ZMQ context, and with it its threads, begins with the first use."""

    kind: int

    def __init__(self, decode: Decoder) -> None:
        self._decode = decode
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

    def _message(self, frames: list[bytes], num_expected: int) -> Message | None:
        try:
            if len(frames) != num_expected:
                raise PeerLost(f"{len(frames)} frames instead of {num_expected}")
            message: Message = self._decode(frames[-1])
            return message
        except PeerLost as error:
            self.num_dropped += 1
            if self.num_dropped & (self.num_dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
                log.warning("dropped control message number %d: %s", self.num_dropped, error)
            return None


class ControlServer(_Socket):
    kind = zmq.ROUTER

    def bind(self, host: str, port: int) -> str:
        """Returns the address for clients; port 0 takes a free one. Raises ConfigError."""
        socket = self._open()
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            what = "choose another port, or 0 for a free one"
            raise ConfigError(
                f"cannot listen for control messages on tcp://{host}:{port} ({error}); "
                + (what if error.errno == zmq.EADDRINUSE else "check host and port")
            ) from error
        return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def receive(self, timeout_s: float) -> list[tuple[bytes, Message]]:
        """Messages with their senders, oldest first; empty after ``timeout_s``."""
        arrived = [(frames[0], self._message(frames, 2)) for frames in self._frames(timeout_s)]
        return [(peer, message) for peer, message in arrived if message is not None]

    def send(self, peer: bytes, message: Message) -> None:
        """Raises PeerLost when the peer is gone or has stopped reading."""
        try:
            self._open().send_multipart([peer, encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise PeerLost(f"control peer {peer.hex()}: {error}") from error


class ControlClient(_Socket):
    kind = zmq.DEALER

    def __init__(self, address: str, decode: Decoder) -> None:
        super().__init__(decode)
        self.address = address

    def receive(self, timeout_s: float) -> list[Message]:
        """Messages of the server, oldest first; empty after ``timeout_s``."""
        arrived = [self._message(frames, 1) for frames in self._frames(timeout_s)]
        return [message for message in arrived if message is not None]

    def send(self, message: Message) -> None:
        """Queued until the server is there. Raises PeerLost when the queue is full."""
        try:
            self._open().send(encode(message), zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise PeerLost(f"control server {self.address}: {error}") from error

    def _open(self) -> "zmq.Socket[Any]":
        if self._socket is None:
            socket = super()._open()
            try:
                socket.connect(self.address)
            except zmq.ZMQError as error:
                self.close()
                raise ConfigError(f"{self.address!r} is no control address: {error}") from error
        return super()._open()
