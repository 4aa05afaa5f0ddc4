"""Transport within one thread, for tests and notebooks; its faults are set off by hand."""

import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from engine.comm import frame
from engine.comm.base import Buffer, Channel, Transport
from engine.errors import ConfigError, PeerLost


class LoopbackNetwork:
    """What transports of one process share: addresses, services and faults."""

    def __init__(self) -> None:
        self.services: list[Callable[[], bool]] = []
        """each does a bit of work for a listener and says whether there was any"""
        self.listeners: dict[str, LoopbackTransport] = {}
        self.frozen: set[str] = set()
        self._pumping = False

    def cut(self, address: str) -> None:
        """The process that listens there dies: all its channels are lost, its address is free."""
        if (listener := self.listeners.get(address)) is not None:
            listener.close()

    def freeze(self, address: str) -> None:
        """The process that listens there stops: nothing is delivered to it or from it."""
        self.frozen.add(address)

    def thaw(self, address: str) -> None:
        self.frozen.discard(address)

    def pump(self) -> bool:
        """Run each service once; whether any did something. A service that waits pumps nothing."""
        if self._pumping:
            return False
        self._pumping = True
        try:
            moved = [service() for service in self.services]
        finally:
            self._pumping = False
        return any(moved)


class LoopbackChannel(Channel):
    other: "LoopbackChannel"

    def __init__(
        self, transport: "LoopbackTransport", *, address: str, peer: str, region: memoryview | None
    ) -> None:
        self.peer = peer
        self.max_body_bytes = transport.config.max_body_bytes
        self.region = region.toreadonly() if region is not None else None
        self._buffer_bytes = transport.config.buffer_bytes
        self._network = transport.network
        self._address = address
        self._inbox: deque[tuple[bytes, bytearray]] = deque()
        self._inbox_bytes = 0
        self._outbox: deque[tuple[bytes, list[bytes | memoryview], int]] = deque()
        self._unsent_bytes = 0
        self._body: memoryview | None = None
        self._fault = ""

    def send(self, head: bytes, *body: Buffer) -> None:
        if self._fault:
            raise PeerLost(self._fault)
        parts = [frame.flat(part) for part in body]
        body_bytes = sum(map(len, parts))
        frame.check_sizes(len(head), body_bytes, self.max_body_bytes)
        self._outbox.append((head, parts, len(head) + body_bytes))
        self._unsent_bytes += len(head) + body_bytes
        self.flush()

    def receive(self) -> tuple[bytes, memoryview] | None:
        if self._body is not None:
            self._body.release()
            self._body = None
        self.other.flush()
        if not self._inbox:
            if self._fault:
                raise PeerLost(self._fault)
            return None
        head, body = self._inbox.popleft()
        self._inbox_bytes -= len(head) + len(body)
        if len(body) > self.max_body_bytes:
            self._inbox.clear()
            self.lose(f"sent a body of {len(body)} bytes, at most {self.max_body_bytes} allowed")
            raise PeerLost(self._fault)
        self.other.flush()
        self._body = memoryview(body)
        return head, self._body

    @property
    def unsent_bytes(self) -> int:
        return self._unsent_bytes

    def close(self) -> None:
        if not self._fault:
            self.flush()
        self.lose("closed here")
        self._inbox.clear()

    def lose(self, fault: str) -> None:
        """End both sides; what was delivered before can still be received."""
        for side, why in ((self, fault), (self.other, "closed by the peer")):
            side._fault = side._fault or f"{side.peer}: {why}"
            side._outbox.clear()
            side._unsent_bytes = 0

    def ready(self) -> bool:
        self.other.flush()
        return bool(self._inbox or self._fault)

    def flush(self) -> None:
        """Deliver what fits into the other side's buffer; a lone message always does."""
        if self._address in self._network.frozen:
            return
        to = self.other
        while self._outbox:
            head, parts, num_bytes = self._outbox[0]
            if to._inbox and to._inbox_bytes + num_bytes > to._buffer_bytes:
                return
            self._outbox.popleft()
            self._unsent_bytes -= num_bytes
            to._inbox.append((bytes(head), bytearray().join(parts)))
            to._inbox_bytes += num_bytes


class LoopbackTransport(Transport):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        name: str = ""
        """listens on loopback:NAME; empty takes the next number"""
        max_body_bytes: int = 1 << 20
        buffer_bytes: int = 4 << 20
        """bytes delivered to a channel and not received yet, before its peer has to queue"""

    def __init__(
        self,
        config: Config,
        *,
        region: memoryview | None = None,
        region_fd: int | None = None,
        key: bytes = b"",
        network: LoopbackNetwork | None = None,
    ) -> None:
        del region_fd, key  # nobody but this process's own can come
        frame.max_frame_bytes(config.max_body_bytes)
        self.config = config
        self.network = network or LoopbackNetwork()
        self._region = region
        self._address = ""
        self._new: list[Channel] = []
        self._channels: list[LoopbackChannel] = []

    def listen(self) -> str:
        assert not self._address
        taken = self.network.listeners
        number = next(n for n in range(len(taken) + 1) if f"loopback:{n}" not in taken)
        address = f"loopback:{self.config.name or number}"
        if address in taken:
            raise ConfigError(f"cannot listen on {address}, it is taken; choose another name")
        self._address = address
        taken[address] = self
        return address

    def accept(self) -> list[Channel]:
        new, self._new = self._new, []
        return new

    def connect(self, address: str, timeout_s: float) -> Channel:
        listener = self.network.listeners.get(address)
        if listener is None or address in self.network.frozen:
            raise PeerLost(f"{address} does not answer within {timeout_s:g} s")
        near = LoopbackChannel(self, address=address, peer=address, region=listener._region)
        far = LoopbackChannel(listener, address=address, peer=f"client of {address}", region=None)
        near.other, far.other = far, near
        self._channels.append(near)
        listener._channels.append(far)
        listener._new.append(far)
        return near

    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        """Runs the network's services until there is something or nothing moves any more.

        Time does not pass for want of a message: with nothing to move this returns at once, or
        waits for ``also`` alone.
        """
        mine = cast(Sequence[LoopbackChannel], channels)
        while True:
            for channel in mine:
                channel.flush()
            ready: list[Channel] = [channel for channel in mine if channel.ready()]
            if ready or self._new or (also and select.select(also, [], [], 0)[0]):
                return ready
            if not self.network.pump():
                if also:
                    select.select(also, [], [], timeout_s)
                return []

    def close(self) -> None:
        if self.network.listeners.get(self._address) is self:
            del self.network.listeners[self._address]
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        self._new.clear()
