"""Transport on one host: two rings in shared memory, and a Unix socket for bells and for death."""

import logging
import math
import mmap
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import cast

from engine.comm import handshake
from engine.comm.base import NOTHING, Channel, Transport
from engine.comm.polling import READ, Poller
from engine.comm.ring import atomics, shared_bytes
from engine.comm.shm_channel import SOCKET_EVERY_S, ShmChannel
from engine.comm.spin import Spin
from engine.comm.watched import Watching
from engine.errors import ConfigError, PeerLost

log = logging.getLogger(__name__)

MAX_STRANGERS = 64
"""peers that have connected and not said hello yet"""


class ShmTransport(Transport):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        name: str = ""
        """listens on shm://NAME; empty takes a random one"""
        max_body_bytes: int = 1 << 20
        ring_bytes: int = 4 << 20
        """for each direction; at least twice the longest frame, a multiple of 4096"""
        spin_s: float = 500e-6
        """longest to watch the rings before sleeping; adapts, and rests where cores are short"""

    def __init__(
        self,
        config: Config,
        *,
        region: memoryview | None = None,
        region_fd: int | None = None,
        key: bytes = b"",
    ) -> None:
        del region  # the file descriptor says it all
        fault = handshake.ring_fault(config.ring_bytes, config.max_body_bytes)
        if fault:
            raise ConfigError(fault)
        if region_fd is not None and not handshake.cannot_shrink(region_fd):
            raise ConfigError(
                "transport shm shows the pool to peers and needs one whose fd is a memfd sealed "
                "against shrinking; use pool.name=paged or transport.name=tcp"
            )
        self.config = config
        self._region_fd = region_fd
        self._key = key
        self._spinning = Spin(config.spin_s)
        self._atomics = atomics()
        self._listener: socket.socket | None = None
        self._strangers: list[handshake.Stranger] = []
        self._channels: list[ShmChannel] = []
        self._poller = Poller()
        self._poll_due = 0.0
        self._watching = Watching((), {})

    def listen(self) -> str:
        assert self._listener is None
        name = self.config.name or f"lendkv-{os.getpid()}-{secrets.token_hex(4)}"
        self._listener = handshake.listen(name)
        return f"shm://{name}"

    def accept(self) -> list[Channel]:
        self._meet_strangers()
        new: list[Channel] = []
        waiting, self._strangers = self._strangers, []
        for stranger in waiting:
            sock = stranger.sock
            try:
                memory = stranger.receive_rings(self.config.max_body_bytes, self._region_fd)
            except BlockingIOError:
                self._strangers.append(stranger)
            except (PeerLost, OSError) as error:
                log.warning("a peer could not be accepted: it %s", error)
                sock.close()
            else:
                peer = f"shm process {handshake.credentials(sock)[0]}"
                new.append(self._add(sock, memory, peer=peer, side=1))
        return new

    def connect(self, address: str, timeout_s: float) -> Channel:
        memory = handshake.create_rings(2 * shared_bytes(self.config.ring_bytes))
        try:
            sock, region = handshake.connect(address, memory, self._key, timeout_s)
            mapped = mmap.mmap(memory, 2 * shared_bytes(self.config.ring_bytes))
        finally:
            os.close(memory)
        channel = self._add(sock, mapped, peer=address, side=0)
        if region is not None:
            channel.map_region(region)
        return channel

    def wait(
        self, channels: Sequence[Channel], timeout_s: float, also: Sequence[int] = ()
    ) -> list[Channel]:
        mine = cast(Sequence[ShmChannel], channels)
        now = began = monotonic()
        deadline, may_spin, has_spun = now + timeout_s, timeout_s > 0, False
        interrupted = False
        while True:
            for channel in mine:
                if channel.unsent_bytes:
                    channel.flush()
            ready: list[Channel] = [channel for channel in mine if channel.ready()]
            if interrupted or (ready and now < self._poll_due):
                if has_spun:
                    self._spinning.learn(now - began if ready else math.inf)
                return ready
            if not ready and may_spin and self.watch is None:
                may_spin, has_spun = False, True
                if self._spin(mine, deadline - now):
                    continue
            now = monotonic()
            left = 0.0 if ready else max(0.0, deadline - now)
            if left and self.watch is not None:
                self._work_and_sleep(mine, left, also)
                left = 0.0
            sleeps = left > 0
            if sleeps and any(channel.fall_asleep() for channel in mine):
                left = 0.0
            interrupted = self._poll(mine, left, also)
            if sleeps:
                for channel in mine:
                    channel.wake_up()
            now = monotonic()
            self._poll_due = now + SOCKET_EVERY_S
            interrupted = interrupted or bool(ready) or now >= deadline

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for stranger in self._strangers:
            stranger.sock.close()
        for channel in self._channels:
            channel.close()
        self._strangers.clear()
        self._channels.clear()

    def _spin(self, channels: Sequence[ShmChannel], most_s: float) -> bool:
        """Watch the rings without sleeping; whether something moved."""
        spin_s = min(self._spinning.begin(monotonic()), most_s)
        watched = self._watch_for(channels, {}).watched
        if not spin_s or not watched.num_words:
            return False
        addresses, values, spin_ns = watched.addresses, watched.values, int(1e9 * spin_s)
        changed = self._atomics.wait_change(addresses, values, watched.num_words, spin_ns)
        self._spinning.end()
        return changed != NOTHING

    def _work_and_sleep(
        self, channels: Sequence[ShmChannel], most_s: float, also: Sequence[int]
    ) -> None:
        """What ``watch`` does, until there is news for Python."""
        assert self.watch is not None
        bells = self._by_socket(channels)
        events = dict.fromkeys([*bells, *self._others(also)], READ)
        watched = self._watch_for(channels, events, len(bells)).watched
        watched.most_ns = int(1e9 * most_s)
        self._spinning.begin_in(watched, monotonic())
        self.watch(watched)
        self._spinning.end_in(watched)

    def _watch_for(
        self, channels: Sequence[ShmChannel], events: dict[int, int], num_bells: int = 0
    ) -> Watching:
        words = [word for channel in channels for word in channel.watched()]
        addresses = tuple(address for address, _ in words)
        if not self._watching.is_of(addresses, events):
            self._watching = Watching(addresses, events, num_bells)
        self._watching.seen(tuple(value for _, value in words))
        return self._watching

    def _by_socket(self, channels: Sequence[ShmChannel]) -> dict[int, ShmChannel]:
        return {channel.fileno(): channel for channel in channels if channel.fileno() >= 0}

    def _others(self, also: Sequence[int]) -> list[int]:
        others = [*also, *(stranger.sock.fileno() for stranger in self._strangers)]
        return others if self._listener is None else [*others, self._listener.fileno()]

    def _poll(self, channels: Sequence[ShmChannel], timeout_s: float, also: Sequence[int]) -> bool:
        """Sleep until a bell, an end, or something else; True for something else."""
        asked, others = self._by_socket(channels), self._others(also)
        interrupted = False
        for fd, _ in self._poller.wait(dict.fromkeys([*asked, *others], READ), timeout_s):
            if fd in asked:
                asked[fd].listen_to_socket()
            else:
                interrupted = True
        return interrupted

    def _meet_strangers(self) -> None:
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("a peer could not be accepted: %s", error)
                return
            sock.setblocking(False)
            if handshake.credentials(sock)[1] != os.getuid():
                log.warning("a process of another user was turned away")
                sock.close()
                continue
            self._strangers.append(handshake.Stranger(sock, self._key))
            if len(self._strangers) > MAX_STRANGERS:
                self._strangers.pop(0).sock.close()

    def _add(self, sock: socket.socket, memory: mmap.mmap, *, peer: str, side: int) -> ShmChannel:
        channel = ShmChannel(
            sock, memory, peer=peer, side=side, max_body_bytes=self.config.max_body_bytes
        )
        self._channels = [old for old in self._channels if not old.is_closed]
        self._channels.append(channel)
        return channel
