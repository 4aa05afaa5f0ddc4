"""KvPublisher: KV events over ZeroMQ, in vLLM's frames, for routers that know its consumers.

PUB sends (topic, 8-byte big-endian number, batch). Who missed some sends the first missed number,
framed like it, to the replay ROUTER and gets (empty, number, batch) for all that is kept from there
on, and at the end the number -1 with an empty batch.
"""

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import zmq

from engine.errors import ConfigError
from engine.protocol.kv_events import KvBatch, KvEvent

END = (-1).to_bytes(8, "big", signed=True)
_ADDRESS = re.compile(r"tcp://(\*|[^:*]+|\[[^]]+\]):([0-9]{1,5})")


class KvPublisher:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Names and defaults as in vLLM's kv_events_config."""

        endpoint: str = ""
        """such as tcp://*:5557; instance i publishes on this port + i; empty: no events"""
        replay_endpoint: str = ""
        """such as tcp://*:5657; again + i"""
        topic: str = ""
        buffer_steps: int = 10_000
        """batches kept for replay"""
        hwm: int = 100_000
        """batches queued for a slow subscriber, beyond which it misses some"""

        def __post_init__(self) -> None:
            for name in ("endpoint", "replay_endpoint"):
                value = getattr(self, name)
                if value and not _ADDRESS.fullmatch(value):
                    raise ValueError(f"{name}={value} is not of the form tcp://HOST:PORT")
            if self.replay_endpoint and not self.endpoint:
                raise ValueError("replay_endpoint needs an endpoint as well")
            if min(self.buffer_steps, self.hwm) < 1:
                raise ValueError("buffer_steps and hwm must be at least 1")

    def __init__(self, config: Config, *, instance: int) -> None:
        """Binds; ConfigError when an address is not to be had."""
        self._instance = instance
        self._topic = config.topic.encode()
        self._encoder = msgspec.msgpack.Encoder()
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._context = zmq.Context()
        self._publish = self._context.socket(zmq.PUB)
        self._publish.set_hwm(config.hwm)
        self._replay = self._context.socket(zmq.ROUTER) if config.replay_endpoint else None
        _bind(self._publish, "endpoint", config.endpoint, instance)
        if self._replay is not None:
            _bind(self._replay, "replay_endpoint", config.replay_endpoint, instance)

    def publish(self, events: Sequence[KvEvent]) -> None:
        """Send a batch, unless it is empty; never waits."""
        if not events:
            return
        data = self._encoder.encode(KvBatch(time.time(), list(events), self._instance))
        self._kept.append((self._number, data))
        self._publish.send_multipart((self._topic, self._number.to_bytes(8, "big"), data))
        self._number += 1

    def serve_replays(self) -> None:
        """Answer who has asked; others wait for the next time."""
        while self._replay is not None and self._replay.poll(0):
            asker, *frames = self._replay.recv_multipart()
            if len(frames) != 2 or len(frames[1]) != 8:
                continue  # not one of ours; there is nobody to tell
            first = int.from_bytes(frames[1], "big")
            for number, data in self._kept:
                if number >= first:
                    self._answer(asker, number.to_bytes(8, "big"), data)
            self._answer(asker, END, b"")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _answer(self, asker: bytes, number: bytes, data: bytes) -> None:
        assert self._replay is not None
        self._replay.send_multipart((asker, b"", number, data))


def _bind(socket: zmq.Socket[bytes], name: str, address: str, instance: int) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.bind(f"{host}:{int(port) + instance}")
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot publish at kv_events.{name}={address}, for instance {instance} port "
            f"{int(port) + instance} ({error.strerror}); choose another port"
        ) from error
