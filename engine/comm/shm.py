"""Transport on one host: two rings in shared memory, and a Unix socket for bells and for death."""

import logging
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
from engine.comm.watched import Watched, Words
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
        self._words = Words(())

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
        now = monotonic()
        deadline, may_spin = now + timeout_s, timeout_s > 0
        interrupted = False
        while True:
            for channel in mine:
                if channel.unsent_bytes:
                    channel.flush()
            ready: list[Channel] = [channel for channel in mine if channel.ready()]
            if interrupted or (ready and now < self._poll_due):
                return ready
            if not ready and may_spin:
                may_spin = False
                if self._spin(mine, deadline - now):
                    continue
            now = monotonic()
            left = 0.0 if ready else max(0.0, deadline - now)
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
        words = [word for channel in channels for word in channel.watched()]
        spin_s = min(self._spinning.begin(monotonic()), most_s) if words else 0.0
        if not spin_s:
            return False
        addresses, values = zip(*words, strict=True)
        if addresses != self._words.addresses:
            self._words = Words(addresses)
        self._words.seen(values)
        watched = self._words.watched
        watched.spin_ns, watched.most_ns = int(spin_s * 1e9), int(most_s * 1e9)
        changed = (self.watch or self._watch)(watched)
        self._spinning.end(came=changed != NOTHING)
        return changed >= 0

    def _watch(self, watched: Watched) -> int:
        addresses, values = watched.addresses, watched.values
        return self._atomics.wait_change(addresses, values, watched.num_words, watched.spin_ns)

    def _poll(self, channels: Sequence[ShmChannel], timeout_s: float, also: Sequence[int]) -> bool:
        """Sleep until a bell, an end, or something else; True for something else."""
        asked = {channel.fileno(): channel for channel in channels if channel.fileno() >= 0}
        others = [*also, *(stranger.sock.fileno() for stranger in self._strangers)]
        if self._listener is not None:
            others.append(self._listener.fileno())
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
