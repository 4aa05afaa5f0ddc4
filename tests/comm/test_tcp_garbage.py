"""Whatever a peer writes to a socket costs it its channel, and this process nothing."""

import contextlib
import socket

import pytest
from comm_harness import LIMIT, PATIENCE_S, drain, header, link, next_message, until
from hypothesis import given
from hypothesis import strategies as st

from engine.comm import frame
from engine.comm.auth import CHALLENGE, Dialer
from engine.errors import PeerLost


def knock(server, port):
    """A raw member's socket that has said hello, the server's channel to it, and its session."""
    raw = socket.create_connection(("127.0.0.1", port))
    dialer = Dialer(b"")
    raw.sendall(dialer.hello)
    accepted = []
    raw.settimeout(0.01)
    challenge = b""
    while len(challenge) < CHALLENGE.size:
        server.wait([], 0.01)
        server.accept()
        with contextlib.suppress(TimeoutError):
            challenge += raw.recv(CHALLENGE.size)
    proof, session = dialer.take(challenge)
    raw.sendall(proof)
    until(lambda: server.wait([], 0.05) or accepted.extend(server.accept()) or accepted)
    raw.settimeout(PATIENCE_S)
    return raw, accepted[0], session


@pytest.mark.parametrize(
    ("garbage", "fault"),
    [
        (b"GET / HTTP/1.1\r\n\r\n".ljust(64), "starts with"),
        (header(body=10_001), "announces"),
        (header(body=(1 << 32) - 1, head=(1 << 32) - 1), "announces"),
        (header(head=65_537), "announces"),
        (header(number=1), "number 1 came where 0"),
        (header(zero=1), "starts with"),
        (header(body=100) + bytes(50), "within a message"),
        (header()[:10], "within a message"),
    ],
)
def test_tcp_garbage_is_a_lost_peer_with_the_fault_named(garbage, fault):
    with link("tcp", **LIMIT) as net:
        server = net.transport()
        port = int(server.listen().rpartition(":")[2])
        raw, near, _ = knock(server, port)
        with raw:
            raw.sendall(garbage)
        with pytest.raises(PeerLost, match=fault):
            next_message(server, near)


@given(data=st.data())
def test_tcp_survives_any_corruption_of_a_stream(data):
    with link("tcp", **LIMIT) as net:
        server = net.transport()
        port = int(server.listen().rpartition(":")[2])
        raw, near, session = knock(server, port)
        stream = bytearray()
        for i in range(3):
            start, _, _ = frame.pack(
                b"head", [bytes(100)], sequence=i, max_body_bytes=10_000, seal=session.sends
            )
            stream += start.ljust(len(start) + 128, b"\0")
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(stream) - 1))
            stream[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
        with raw:
            raw.sendall(stream)
        until(lambda: drain(server, near))
