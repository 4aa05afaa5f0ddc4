"""What the tests of transports share: pairs of channels over any transport, and peer processes."""

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.comm import TRANSPORTS, frame
from engine.comm.base import Channel, Transport
from engine.comm.loopback import LoopbackNetwork
from engine.errors import PeerLost

PATIENCE_S = 20.0
"""upper bound for things that happen at once on an idle machine; only a failing test waits so"""
NIXL = {
    "nixl-shm": {"ucx_tls": "tcp,cma", "bulk_bytes": 16 << 10},
    "nixl-tcp": {"ucx_tls": "tcp", "bulk_bytes": 16 << 10},
}
"""that transport over shared memory and over TCP: what UCX does is its own in each"""
TRANSPORT_NAMES = [*(name for name in TRANSPORTS.names() if name != "nixl"), *NIXL]
PROCESS_TRANSPORT_NAMES = [name for name in TRANSPORT_NAMES if name != "loopback"]

LIMIT = {"max_body_bytes": 10_000}
"""for tests of garbage"""


@dataclass
class Link:
    """A listener and clients of one transport."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    network: LoopbackNetwork = field(default_factory=LoopbackNetwork)
    transports: list[Transport] = field(default_factory=list)

    def transport(self, **more: Any) -> Transport:
        kind = TRANSPORTS.load(self.name)
        region = {key: more.pop(key) for key in ("region", "region_fd", "key") if key in more}
        network = {"network": self.network} if self.name == "loopback" else {}
        made = kind(kind.Config(**(self.options | more)), **region, **network)
        self.transports.append(made)
        return made

    def at(self, address: str) -> dict[str, Any]:
        """Options that make a transport listen on this address."""
        if self.name in ("nixl", "tcp", "torch"):
            return {"port": int(address.rpartition(":")[2])}
        return {"name": address.partition(":")[2].removeprefix("//")}

    def open(self, server: Transport, client: Transport, address: str) -> tuple[Channel, Channel]:
        """(server's end, client's end) of a new channel."""
        opened: list[Channel] = []
        thread = threading.Thread(target=lambda: opened.append(client.connect(address, PATIENCE_S)))
        thread.start()
        accepted: list[Channel] = []
        deadline = time.monotonic() + PATIENCE_S
        while not accepted and time.monotonic() < deadline:
            server.wait([], 0.01)
            accepted = server.accept()
        thread.join()
        assert len(accepted) == 1
        assert len(opened) == 1
        return accepted[0], opened[0]

    def pair(self, **server_options: Any) -> tuple[Transport, Channel, Transport, Channel]:
        server, client = self.transport(**server_options), self.transport()
        near, far = self.open(server, client, server.listen())
        return server, near, client, far

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
        self.transports.clear()


@contextlib.contextmanager
def link(transport_name: str, /, **options: Any) -> Iterator[Link]:
    nixl = NIXL.get(transport_name)
    made = Link("nixl", nixl | options) if nixl else Link(transport_name, options)
    try:
        yield made
    finally:
        made.close()


def next_message(
    transport: Transport, channel: Channel, meanwhile: Callable[[], object] = lambda: None
) -> tuple[bytes, bytes]:
    """The next message, copied; raises whatever ``receive`` raises."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        message = channel.receive()
        if message is not None:
            return message[0], bytes(message[1])
        meanwhile()
        transport.wait([channel], 0.01)
    raise AssertionError("no message came")


def drain(transport: Transport, channel: Channel) -> bool:
    """Receive until there is nothing more; whether the peer was lost."""
    try:
        for _ in range(1000):
            message = channel.receive()
            if message is None and not transport.wait([channel], 0.001):
                return False
            if message is not None:
                assert len(message[1]) <= LIMIT["max_body_bytes"]
                sum(bytes(message[1])[:10])
    except PeerLost:
        return True
    raise AssertionError("messages without end")


def fresh(net: Link) -> tuple[Transport, Transport, str]:
    """A listening server, a client, and the server's address."""
    server = net.transport()
    return server, net.transport(), server.listen()


def header(
    magic: int = frame.MAGIC, head: int = 0, body: int = 0, zero: int = 0, number: int = 0
) -> bytes:
    """A frame's, without a tag."""
    return frame.HEADER.pack(magic, head, body, zero, number) + frame.NO_TAG


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.001)


@contextlib.contextmanager
def peer_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``comm_peer.py`` in a process of its own; killed at the end."""
    command = [sys.executable, str(Path(__file__).with_name("comm_peer.py")), *arguments]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def sealed_region(content: bytes) -> int:
    """A memfd as a pool makes it."""
    fd = os.memfd_create("test-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd
