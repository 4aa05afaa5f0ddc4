"""Transport over torch.distributed: directed groups of two, made beside a control socket.

For links that torch has a backend for. Slower than tcp for small messages: each passes through two
threads at either end. A member of the cluster is trusted as far as gloo trusts it: one that breaks
gloo's own protocol can end this process; so can a stranger who finds the port of a group in the
making, so keep its network to yourself.
"""

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Literal, cast

import torch

from engine.comm import frame
from engine.comm.base import Channel, Transport
from engine.comm.polling import READ, Poller
from engine.comm.sockets import accept_from, address_of, dial, listener_at
from engine.comm.torch_channel import LINGER_S, TorchChannel
from engine.errors import ConfigError, PeerLost

log = logging.getLogger(__name__)

MAX_GREETING = 64
"""peers that have connected but not met yet; more wait in the kernel"""


class TorchTransport(Transport):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        backend: Literal["gloo", "nccl"] = "gloo"
        """nccl: over GPUs, a different one at each end"""
        device: int = 0
        """the GPU here, for nccl"""
        host: str = "127.0.0.1"
        """interface to listen on; peers are told exactly this address"""
        port: int = 0
        """0 takes a free one"""
        max_body_bytes: int = 1 << 20
        greeting_timeout_s: float = 10.0
        """how long a peer that connected may take to set up its side"""

    def __init__(
        self,
        config: Config,
        *,
        region: memoryview | None = None,
        region_fd: int | None = None,
        key: bytes = b"",
    ) -> None:
        del region, region_fd  # nobody maps memory over a network
        frame.max_frame_bytes(config.max_body_bytes)
        if config.backend not in ("gloo", "nccl"):
            raise ConfigError(f"backend is {config.backend!r}; it must be gloo or nccl")
        if config.backend == "nccl" and not torch.cuda.is_available():
            raise ConfigError("backend nccl needs a GPU, and torch sees none; choose gloo")
        self.config = config
        self._key = key
        self._listener: socket.socket | None = None
        self._channels: list[TorchChannel] = []
        self._greeting: list[TorchChannel] = []
        self._poller = Poller()

    def listen(self) -> str:
        assert self._listener is None
        self._listener = listener_at("torch", self.config.host, self.config.port)
        return address_of("torch", self._listener.getsockname())

    def accept(self) -> list[Channel]:
        while self._listener is not None and len(self._greeting) < MAX_GREETING:
            if (peer := accept_from(self._listener, "torch")) is None:
                break
            timeout_s = self.config.greeting_timeout_s
            channel = self._add(*peer, dials=False, timeout_s=timeout_s)
            self._greeting.append(channel)
        new: list[Channel] = []
        for channel in list(self._greeting):
            try:
                if channel.opened(block=False):
                    self._greeting.remove(channel)
                    new.append(channel)
            except PeerLost as error:
                log.warning("a peer could not be accepted: %s", error)
                self._greeting.remove(channel)
                channel.close()
        return new

    def connect(self, address: str, timeout_s: float) -> Channel:
        deadline = monotonic() + timeout_s
        sock = dial("torch", address, timeout_s)
        channel = self._add(sock, address, dials=True, timeout_s=deadline - monotonic())
        try:
            channel.opened(block=True)
        except PeerLost as error:
            channel.close()
            raise PeerLost(f"{address} does not answer within {timeout_s:g} s: {error}") from error
        return channel

    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        mine = cast(Sequence[TorchChannel], channels)
        watched = dict.fromkeys(also, READ)
        if self._listener is not None and len(self._greeting) < MAX_GREETING:
            watched[self._listener.fileno()] = READ
        watched |= {channel.fileno(): READ for channel in self._greeting}
        watched |= {channel.fileno(): READ for channel in mine if not channel.ready()}
        ready = any(channel.ready() for channel in mine)
        self._poller.wait(watched, 0.0 if ready else max(0.0, timeout_s))
        return [channel for channel in mine if channel.ready()]

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        deadline = monotonic() + LINGER_S
        for channel in self._channels:
            channel.close_by(deadline)
        self._channels.clear()
        self._greeting.clear()

    def _add(
        self, sock: socket.socket, peer: str, *, dials: bool, timeout_s: float
    ) -> TorchChannel:
        channel = TorchChannel(
            sock,
            peer,
            self.config.max_body_bytes,
            key=self._key,
            backend=self.config.backend,
            device=self.config.device,
            dials=dials,
            timeout_s=timeout_s,
        )
        self._channels = [old for old in self._channels if old.fileno() >= 0]
        self._channels.append(channel)
        return channel
