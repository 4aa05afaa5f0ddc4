"""Transport between hosts with NIXL: large bodies one-sided, by what UCX finds; the rest over TCP.

A layer's question and its answer are small, and NIXL's own notifications have to be polled for: no
descriptor tells of them, so who waits for one cannot sleep. Blocks that move are large: they go
from the sender's pool into a window of the receiver's without a copy in between, and the receiver
looks at its books before it takes them from there. The pool itself is open to no peer.

For hosts with InfiniBand, or one host; where UCX has nothing but TCP, transport tcp is faster.
"""

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import cast

from engine.comm import frame
from engine.comm.auth import Session
from engine.comm.nixl_agent import Agent, address_of
from engine.comm.nixl_channel import LINGER_S, Bulk, NixlChannel
from engine.comm.nixl_window import Stock
from engine.comm.tcp import TcpTransport
from engine.comm.tcp_channel import TcpChannel
from engine.errors import ConfigError

LOOK_S = 1e-3
"""how long to sleep while something is being written"""


class NixlTransport(TcpTransport):
    scheme = "nixl"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(TcpTransport.Config):
        ucx_tls: str = ""
        """what UCX may use, as in its variable UCX_TLS; empty: whatever it finds"""
        bulk_bytes: int = 256 << 10
        """bodies of at least so many bytes are written by NIXL"""
        bodies_under_way: int = 4
        """room for so many of the largest bodies in each window"""

    config: Config

    def __init__(
        self,
        config: Config,
        *,
        region: memoryview | None = None,
        region_fd: int | None = None,
        key: bytes = b"",
    ) -> None:
        super().__init__(config, key=key)
        for name, value in (
            ("bulk_bytes", config.bulk_bytes),
            ("bodies_under_way", config.bodies_under_way),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        agent = Agent(config.ucx_tls)
        num_bytes = config.bodies_under_way * frame.align(max(config.max_body_bytes, 1))
        addresses = range(0)
        if region is not None:
            start = address_of(region)
            addresses = range(start, start + len(region))
            agent.show(start, len(region))
        self._bulk = Bulk(Stock(agent, num_bytes), addresses, config.bulk_bytes)

    def close(self) -> None:
        deadline = monotonic() + LINGER_S
        for channel in self._channels:
            cast(NixlChannel, channel).close_by(deadline)
        super().close()
        self._bulk.stock.close()

    def _go_on(self, channels: Sequence[TcpChannel]) -> float:
        most_s = math.inf
        for channel in cast(Sequence[NixlChannel], channels):
            channel.go_on()
            if channel.is_writing():
                most_s = LOOK_S
        return most_s

    def _channel(self, sock: socket.socket, peer: str, session: Session) -> NixlChannel:
        return NixlChannel(sock, peer, self.config.max_body_bytes, session, self._bulk)
