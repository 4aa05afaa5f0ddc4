"""Roads: TCP between instances through a relay that can be cut, as a network is partitioned.

``Roads`` is a transport for the cluster's processes: it dials through the relay. ``relay`` is the
process in between. Cut off, an instance's bytes to and from all others wait in the relay and
nothing is closed, as with a network that drops packets: when the cut heals, they go on.
"""

import json
import os
import selectors
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from engine.comm.base import Channel
from engine.comm.tcp import TcpTransport
from engine.errors import PeerLost

MAX_HELD = 1 << 20
"""bytes that wait in the relay for one direction before it reads no more"""
ASK_BYTES = 4096


class Roads(TcpTransport):
    """TCP whose every channel goes through the relay at ``office``."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(TcpTransport.Config):
        office: str = ""
        """path of the relay's Unix socket"""

    def listen(self) -> str:
        address = super().listen()
        self._ask({"listen": address})
        return address

    def connect(self, address: str, timeout_s: float) -> Channel:
        return super().connect(self._ask({"dial": address}, timeout_s), timeout_s)

    def _ask(self, wish: dict[str, str], timeout_s: float = 10.0) -> str:
        office = cast(Roads.Config, self.config).office
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(timeout_s)
                sock.connect(office)
                sock.send(json.dumps(wish).encode())
                return sock.recv(ASK_BYTES).decode()
        except OSError as error:
            raise PeerLost(f"the relay at {office} does not answer: {error}") from error


@dataclass(slots=True, eq=False)
class _End:
    """One socket of a road, and the bytes that wait to be sent on it."""

    sock: socket.socket
    road: tuple[int, int]
    """the supervisors of who dialled and of who listens"""
    held: bytearray = field(default_factory=bytearray)
    other: "_End | None" = None
    closing: bool = False


class Relay:
    """Serves the office and forwards bytes; ``cut`` holds the supervisors that are cut off."""

    def __init__(self, office: Path) -> None:
        self._office = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._office.bind(str(office))
        self._office.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._office, selectors.EVENT_READ, "office")
        self._homes: dict[str, int] = {}
        self._ends: set[_End] = set()
        self.cut: set[int] = set()

    def is_cut(self, road: tuple[int, int]) -> bool:
        """A road between two instances of which one is cut off; within one it always stands."""
        return road[0] != road[1] and bool(self.cut & set(road))

    def watch(self, pipe: Connection) -> None:
        self._selector.register(pipe, selectors.EVENT_READ, "pipe")

    def turn(self, timeout_s: float) -> bool:
        """Serve what is ready; True when the pipe has something."""
        for end in self._ends:
            self._arm(end)
        told = False
        for key, events in self._selector.select(timeout_s):
            if key.data == "office":
                self._serve()
            elif key.data == "pipe":
                told = True
            elif isinstance(key.data, tuple):
                self._open(cast(socket.socket, key.fileobj), *key.data)
            elif key.data in self._ends:
                self._forward(key.data, events)
        return told

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        for end in self._ends:  # those that are cut off are not watched
            end.sock.close()
        self._selector.close()

    def _serve(self) -> None:
        """One wish: note who listens, or make a road to who does."""
        asker, _ = self._office.accept()
        with asker:
            asker.settimeout(1.0)
            with suppress(OSError, ValueError):
                wish = json.loads(asker.recv(ASK_BYTES))
                home = _home_of(asker)
                if "listen" in wish:
                    self._homes[wish["listen"]] = home
                    asker.send(b"noted")
                    return
                gate = socket.create_server(("127.0.0.1", 0))
                road = (home, self._homes.get(wish["dial"], 0))
                self._selector.register(gate, selectors.EVENT_READ, (wish["dial"], road))
                asker.send(f"tcp://127.0.0.1:{gate.getsockname()[1]}".encode())

    def _open(self, gate: socket.socket, address: str, road: tuple[int, int]) -> None:
        """Who asked has dialled: dial on for it. The gate is for one."""
        self._selector.unregister(gate)
        with gate:
            near = gate.accept()[0]
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            far = socket.create_connection((host.strip("[]"), int(port)), timeout=1.0)
        except OSError:
            near.close()
            return
        ends = _End(near, road), _End(far, road)
        ends[0].other, ends[1].other = ends[1], ends[0]
        for end in ends:
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end.sock, selectors.EVENT_READ, end)
            self._ends.add(end)

    def _arm(self, end: _End) -> None:
        """Wait for what can go on now; a cut road moves nothing."""
        assert end.other is not None
        events = 0
        if not self.is_cut(end.road):
            if len(end.other.held) < MAX_HELD and not end.other.closing:
                events |= selectors.EVENT_READ
            if end.held:
                events |= selectors.EVENT_WRITE
        known = self._selector.get_map().get(end.sock)
        if events and known is None:
            self._selector.register(end.sock, events, end)
        elif events and known is not None and known.events != events:
            self._selector.modify(end.sock, events, end)
        elif not events and known is not None:
            self._selector.unregister(end.sock)

    def _forward(self, end: _End, events: int) -> None:
        other = end.other
        assert other is not None
        try:
            if events & selectors.EVENT_READ:
                data = end.sock.recv(1 << 18)
                if not data:
                    other.closing = True
                other.held += data
                self._send(other)
            if events & selectors.EVENT_WRITE:
                self._send(end)
        except BlockingIOError:
            pass
        except OSError:
            self._close(end)
            return
        for one in (end, other):
            if one.closing and not one.held:
                self._close(one)
                return

    def _send(self, end: _End) -> None:
        if end.held:
            with suppress(BlockingIOError):
                sent = end.sock.send(end.held)
                del end.held[:sent]

    def _close(self, end: _End) -> None:
        for one in (end, end.other):
            if one in self._ends and one is not None:
                self._ends.discard(one)
                if one.sock in self._selector.get_map():
                    self._selector.unregister(one.sock)
                one.sock.close()


def relay(pipe: Connection, office: Path) -> int:
    """A process until its parent closes the pipe; it takes {"cut": [supervisor pids]}."""
    serving = Relay(office)
    serving.watch(pipe)
    pipe.send({"ready": True})
    while True:
        if serving.turn(1.0):
            try:
                serving.cut = set(pipe.recv()["cut"])
            except EOFError:
                return 0


def _home_of(sock: socket.socket) -> int:
    """The parent of the process at the other end: its instance's supervisor."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = struct.unpack("3i", raw)[0]
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return int(stat.split()[1]) if pid != os.getpid() else pid
