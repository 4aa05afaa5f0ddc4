"""What gloo would do to a process (abort, block, time out) does not reach users of a channel."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from time import monotonic

import pytest
import torch
from comm_harness import PATIENCE_S, link, next_message, peer_process, until
from hypothesis import given
from hypothesis import strategies as st

from engine.comm import frame
from engine.comm.sockets import greet
from engine.comm.torch_channel import JOIN_S, LINGER_S, MAGIC
from engine.comm.torch_group import KEY_LENGTHS
from engine.comm.torch_inbox import Inbox, tensor_bytes
from engine.errors import ConfigError, PeerLost

LIMIT = {"max_body_bytes": 10_000}
GREETING = MAGIC + b"gloo    "


@pytest.fixture
def net():
    with link("torch") as made:
        yield made


def stranger(address):
    """A bare socket to the listener."""
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))


def test_the_package_is_imported_without_torch():
    modules = "engine.comm, engine.comm.tcp, engine.comm.shm, engine.comm.loopback"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == 0


@pytest.mark.parametrize("num_bytes", [1, 64, 100, tensor_bytes(5000), tensor_bytes(10_000)])
def test_a_body_of_another_length_than_announced_loses_its_sender_only(num_bytes):
    with link("torch", **LIMIT) as net:
        server = net.transport()
        address = server.listen()
        ends = [net.open(server, net.transport(), address) for _ in range(2)]
        (near, far), (near_good, good) = ends
        seal = far._session.sends
        start, _, _ = frame.pack(
            b"head", [bytes(300)], sequence=0, max_body_bytes=10_000, seal=seal
        )
        far._socket.sendall(start)
        far._groups[0].send(torch.zeros(num_bytes, dtype=torch.uint8))
        with pytest.raises(PeerLost, match="other than the announced 300 bytes"):
            next_message(server, near)
        good.send(b"still here", b"body")
        assert next_message(server, near_good) == (b"still here", b"body")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"GET / HTTP/1.1\r\n", "speaks b'GET"),
        (MAGIC + b"nccl    ", "speaks b'LKVTORCHnccl"),
        (GREETING + KEY_LENGTHS.pack(1 << 31, 8), "no greeting"),
        (GREETING + KEY_LENGTHS.pack(3, 3) + b"keyval" + KEY_LENGTHS.pack(0, 0), "no more to say"),
        (GREETING[:5], "closed by the peer"),
    ],
)
def test_a_member_that_talks_nonsense_is_not_accepted(net, said, fault, caplog):
    server = net.transport()
    with stranger(server.listen()) as sock:
        proves = threading.Thread(target=greet, args=(sock, b"", monotonic() + PATIENCE_S))
        proves.start()
        until(lambda: server.wait([], 0.01) or server.accept() or not proves.is_alive())
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        until(lambda: server.wait([], 0.05) or server.accept() or caplog.records)
        assert re.search(fault, caplog.text)


def test_a_peer_that_dies_while_its_groups_are_made_is_dropped(caplog):
    dies = """
import os, sys
from engine.comm.torch_group import SocketStore
from engine.comm.torch_transport import TorchTransport
tell = SocketStore.set
SocketStore.set = lambda store, *pair: (tell(store, *pair), store._read(), os._exit(0))
TorchTransport(TorchTransport.Config()).connect(sys.argv[1], 5.0)
"""
    with link("torch", greeting_timeout_s=1.0) as net:
        server = net.transport()
        address = server.listen()
        with subprocess.Popen([sys.executable, "-c", dies, address]):
            until(lambda: server.wait([], 0.05) or server.accept() or caplog.records)
        assert "could not be accepted" in caplog.text
        near, far = net.open(server, net.transport(), address)
        far.send(b"served")
        assert next_message(server, near) == (b"served", b"")


def test_a_silent_stranger_is_dropped_in_time_and_blocks_nobody(caplog):
    with link("torch", greeting_timeout_s=0.3) as net:
        server = net.transport()
        address = server.listen()
        with stranger(address):
            near, far = net.open(server, net.transport(), address)
            far.send(b"served")
            assert next_message(server, near) == (b"served", b"")
            until(lambda: server.wait([], 0.05) or server.accept() or caplog.records)
            assert "timed out" in caplog.text
            assert server.wait([near], 0.01) == []


def test_a_listener_that_never_answers_is_lost_within_the_timeout(net):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = monotonic()
        with pytest.raises(PeerLost, match="does not answer within 0.3 s"):
            net.transport().connect(f"torch://127.0.0.1:{silent.getsockname()[1]}", 0.3)
        assert monotonic() - start < 5


def test_neither_idleness_nor_a_slow_reader_closes_a_channel():
    with link("torch", greeting_timeout_s=0.3) as net:
        server, near, client, far = net.pair()
        server.wait([near], 0.5)
        body = os.urandom(1 << 20)
        for _ in range(8):
            near.send(b"much", body)
        server.wait([near], 0.5)  # longer than any timeout that torch was told
        assert near.unsent_bytes > 0
        for _ in range(8):
            assert next_message(client, far) == (b"much", body)
        far.send(b"still here", b"body")
        assert next_message(server, near) == (b"still here", b"body")


def test_unread_heads_are_bounded_at_the_receiver(net):
    server, near, _, far = net.pair()
    head, num_sent = bytes(60_000), 0
    while far.unsent_bytes < 3_000_000:
        far.send(head)
        num_sent += 1
        assert num_sent < 1000
    for _ in range(num_sent):
        assert next_message(server, near) == (head, b"")


def test_a_frozen_peer_delays_a_close_by_no_more_than_its_limits(net):
    num_threads = threading.active_count()
    server = net.transport()
    with peer_process("dial", net.name, json.dumps({}), server.listen()) as process:
        accepted = []
        until(lambda: server.wait([], 0.05) or accepted.extend(server.accept()) or accepted)
        accepted[0].send(b"hello", b"body")
        assert next_message(server, accepted[0]) == (b"hello", b"body")
        os.kill(process.pid, signal.SIGSTOP)
        for _ in range(20):
            accepted[0].send(b"much", bytes(1 << 20))
        start = monotonic()
        net.close()
        assert monotonic() - start < LINGER_S + JOIN_S + 1
        assert threading.active_count() == num_threads


def test_a_backend_that_cannot_be_is_refused(net, monkeypatch):
    with pytest.raises(ConfigError, match="must be gloo or nccl"):
        net.transport(backend="mpi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="choose gloo"):
        net.transport(backend="nccl")


def test_ipv6_where_there_is_any():
    with link("torch", host="::1") as net:
        try:
            server, near, _, far = net.pair()
        except ConfigError:
            pytest.skip("no IPv6 on this machine")
        far.send(b"h", b"b")
        assert next_message(server, near) == (b"h", b"b")


@given(steps=st.lists(st.integers(-1, 1000), max_size=60))
def test_bodies_in_the_inbox_never_overlap(steps):
    """A body of so many bytes arrives, or one is taken (-1)."""
    inbox = Inbox(1000)
    expected, held = [], None
    for i, num_bytes in enumerate(steps):
        if num_bytes < 0:
            held = inbox.take()
            assert (held is None) == (not expected)
            if held is not None:
                assert (held[0], bytes(held[1])) == expected[0]
                held = (held, expected.pop(0))
        elif (start := inbox.free_start()) is not None:
            inbox.slot(start).fill_(i)  # gloo may write to all of it
            inbox.put(b"%d" % i, start, num_bytes)
            expected.append((b"%d" % i, bytes([i]) * num_bytes))
        if held is not None:
            (head, body), right = held
            assert (head, bytes(body)) == right
    while expected:
        head, body = inbox.take()
        assert (head, bytes(body)) == expected.pop(0)
    inbox.take()
    assert inbox.free_start() == 0
