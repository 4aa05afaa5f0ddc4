"""Transport between hosts: plain non-blocking TCP sockets, one a channel."""

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import cast

from engine.comm import frame
from engine.comm.auth import Session
from engine.comm.base import Channel, Transport
from engine.comm.polling import READ, WRITE, Poller
from engine.comm.sockets import address_of, dial_member, listener_at
from engine.comm.spin import Spin
from engine.comm.strangers import Strangers
from engine.comm.tcp_channel import TcpChannel
from engine.comm.watched import Watching


class TcpTransport(Transport):
    scheme = "tcp"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        host: str = "127.0.0.1"
        """interface to listen on; peers are told exactly this address"""
        port: int = 0
        """0 takes a free one"""
        max_body_bytes: int = 1 << 20
        spin_s: float = 500e-6
        """longest to look again and again before sleeping; adapts, rests where cores are short"""

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
        self.config = config
        self._key = key
        self._strangers = Strangers(self.scheme, key)
        self._spinning = Spin(config.spin_s)
        self._watching = Watching((), {})
        self._listener: socket.socket | None = None
        self._channels: list[TcpChannel] = []
        self._poller = Poller()

    def listen(self) -> str:
        assert self._listener is None
        self._listener = listener_at(self.scheme, self.config.host, self.config.port)
        return address_of(self.scheme, self._listener.getsockname())

    def accept(self) -> list[Channel]:
        if self._listener is None:
            return []
        return [self._add(*member) for member in self._strangers.meet(self._listener)]

    def connect(self, address: str, timeout_s: float) -> Channel:
        return self._add(*dial_member(self.scheme, address, self._key, timeout_s))

    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        mine = cast(Sequence[TcpChannel], channels)
        now = began = monotonic()
        deadline, may_spin = now + timeout_s, True
        while True:
            most_s = self._go_on(mine)
            ready: list[Channel] = []
            asked: dict[int, TcpChannel] = {}
            watched = dict.fromkeys(also, READ)
            if self._listener is not None:
                watched[self._listener.fileno()] = READ
                watched |= dict.fromkeys(self._strangers.filenos(), READ)
            for channel in mine:
                if channel.ready():
                    ready.append(channel)
                else:
                    asked[channel.fileno()] = channel
                    watched[channel.fileno()] = channel.events()
            left = 0.0 if ready else max(0.0, min(deadline - now, most_s))
            if left and (may_spin or self.watch):
                may_spin = False
                left = self._watch(watched, left)
            interrupted = False
            for fd, events in self._poller.wait(watched, left):
                if fd not in asked:
                    interrupted = True
                    continue
                if events & WRITE:
                    asked[fd].flush()
                if events & ~WRITE:
                    asked[fd].fill()
            ready += [channel for channel in asked.values() if channel.ready()]
            now = monotonic()
            if ready or interrupted or now >= deadline:
                if not (may_spin or self.watch):
                    self._spinning.learn(now - began if ready else math.inf)
                return ready

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._strangers.close()
        for channel in self._channels:
            channel.close()
        self._channels.clear()

    def _go_on(self, channels: Sequence[TcpChannel]) -> float:
        """What they have to do beside their sockets; how long to sleep at most then."""
        return math.inf

    def _watch(self, watched: dict[int, int], left_s: float) -> float:
        """Look again and again, and work meanwhile; how long to sleep then."""
        now = monotonic()
        if self.watch is None:
            came = self._look(watched, now + min(self._spinning.begin(now), left_s))
            self._spinning.end()
            return 0.0 if came else left_s
        if not self._watching.is_of((), watched):
            self._watching = Watching((), watched)
        told = self._watching.watched
        told.most_ns = int(1e9 * left_s)
        self._spinning.begin_in(told, now)
        self.watch(told)
        self._spinning.end_in(told)
        return 0.0

    def _look(self, watched: dict[int, int], until: float) -> bool:
        while monotonic() < until:
            if self._poller.wait(watched, 0.0):
                return True
        return False

    def _add(self, sock: socket.socket, peer: str, session: Session) -> TcpChannel:
        channel = self._channel(sock, peer, session)
        self._channels = [old for old in self._channels if old.fileno() >= 0]
        self._channels.append(channel)
        return channel

    def _channel(self, sock: socket.socket, peer: str, session: Session) -> TcpChannel:
        return TcpChannel(sock, peer, self.config.max_body_bytes, session)
