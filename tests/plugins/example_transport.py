"""A transport around any other that writes down every message, a file for each process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO, cast

from engine.comm import TRANSPORTS
from engine.comm.base import Buffer, Channel, Transport
from engine.config import Component, options_of
from engine.errors import ConfigError


class TracedChannel(Channel):
    def __init__(self, inner: Channel, trace: TextIO) -> None:
        self.inner = inner
        self.peer = inner.peer
        self.max_body_bytes = inner.max_body_bytes
        self.region = inner.region
        self._trace = trace

    def send(self, head: bytes, *body: Buffer) -> None:
        self.inner.send(head, *body)
        num_bytes = sum(memoryview(part).nbytes for part in body)
        self._trace.write(f"to {self.peer}: {len(head)} + {num_bytes} bytes\n")

    def receive(self) -> tuple[bytes, memoryview] | None:
        message = self.inner.receive()
        if message is not None:
            head, body = message
            self._trace.write(f"from {self.peer}: {len(head)} + {len(body)} bytes\n")
        return message

    @property
    def unsent_bytes(self) -> int:
        return self.inner.unsent_bytes

    def close(self) -> None:
        self.inner.close()


class TracedTransport(Transport):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        folder: str = "."
        """where the traces go, named by process id"""
        around: str = "tcp"
        options: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, **runtime: Any) -> None:
        part = Component(name=config.around, options=config.options)
        cls, options = options_of(TRANSPORTS, "transport.options.around", part)
        try:
            self._trace = open(f"{config.folder}/{os.getpid()}.trace", "a", 1)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"the trace cannot be written: {error}") from error
        self._inner: Transport = cls(options, **runtime)

    def listen(self) -> str:
        return self._inner.listen()

    def accept(self) -> list[Channel]:
        return [TracedChannel(channel, self._trace) for channel in self._inner.accept()]

    def connect(self, address: str, timeout_s: float) -> Channel:
        return TracedChannel(self._inner.connect(address, timeout_s), self._trace)

    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        mine = cast(Sequence[TracedChannel], channels)
        ready = self._inner.wait([channel.inner for channel in mine], timeout_s, also)
        return [channel for channel in mine if channel.inner in ready]

    def close(self) -> None:
        self._inner.close()
        self._trace.close()
