"""Only members are listened to: wrong keys, strangers, changed and repeated messages."""

import socket
import struct
import threading

import pytest
import zmq
from comm_harness import PATIENCE_S, PROCESS_TRANSPORT_NAMES, link, next_message, until
from hypothesis import given
from hypothesis import strategies as st

from engine.comm import frame
from engine.comm.auth import HELLO, KEY_VARIABLE, Dialer, Listener, Seal, read_key
from engine.comm.control import ControlClient, ControlServer
from engine.comm.control_talk import DATA, HEAD, NO_TAG
from engine.comm.sockets import advertised
from engine.errors import ConfigError, PeerLost
from engine.protocol import FROM_PLANNER, TO_PLANNER, Goodbye, Members, MembersQuery, encode

OURS, OTHERS = b"a" * 32, b"b" * 32
WHAT_TO_DO = "another cluster key: give both sides the same cluster.key_file"


def test_a_handshake_needs_the_same_key_at_both_ends():
    for theirs in (OTHERS, b""):
        dialer, listener = Dialer(OURS), Listener(theirs)
        with pytest.raises(PeerLost, match=WHAT_TO_DO):
            dialer.take(listener.take(dialer.hello))
    dialer, listener = Dialer(OURS), Listener(OURS)
    listener.take(dialer.hello)
    with pytest.raises(PeerLost, match=WHAT_TO_DO):
        listener.take(bytes(16))
    assert listener.session is None


def test_what_a_handshake_said_opens_no_other():
    dialer, listener = Dialer(OURS), Listener(OURS)
    proof, _ = dialer.take(listener.take(dialer.hello))
    again = Listener(OURS)
    again.take(dialer.hello)
    with pytest.raises(PeerLost):
        again.take(proof)


def test_a_listener_cannot_be_made_to_prove_for_a_dialer():
    """A stranger who reflects a listener's proof back to it has not answered it."""
    listener = Listener(OURS)
    challenge = listener.take(Dialer(OTHERS).hello)
    with pytest.raises(PeerLost):
        listener.take(challenge[-16:])


@given(data=st.data())
def test_a_handshake_may_come_in_pieces_and_seals_differ_by_direction(data):
    dialer, listener = Dialer(OURS), Listener(OURS)
    answer, rest = b"", dialer.hello
    while rest:
        size = data.draw(st.integers(1, min(len(rest), listener.num_missing)))
        answer += listener.take(rest[:size])
        rest = rest[size:]
    proof, near = dialer.take(answer)
    listener.take(proof)
    far = listener.session
    assert far.receives.fits(near.sends.tag(b"x"), b"x")
    assert near.receives.fits(far.sends.tag(b"x"), b"x")
    assert not near.receives.fits(near.sends.tag(b"x"), b"x")


@pytest.mark.parametrize("name", PROCESS_TRANSPORT_NAMES)
def test_a_wrong_key_is_one_sentence_on_the_side_that_dials(name):
    with link(name) as net:
        server = net.transport(key=OURS)
        address = server.listen()
        stop = threading.Event()

        def serve():
            while not stop.is_set():
                server.wait([], 0.01)
                assert server.accept() == []

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(PeerLost, match=WHAT_TO_DO):
                net.transport(key=OTHERS).connect(address, PATIENCE_S)
        finally:
            stop.set()
            thread.join()
        near, far = net.open(server, net.transport(key=OURS), address)
        far.send(b"members", b"are served")
        assert next_message(server, near) == (b"members", b"are served")


@pytest.mark.parametrize("name", ["nixl-shm", "tcp", "torch"])
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n".ljust(200), HELLO.pack(b"x", b"y"), b""]
)
def test_a_stranger_on_the_port_is_turned_away(name, garbage, caplog):
    with link(name) as net:
        server = net.transport(key=OURS)
        port = int(server.listen().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            until(lambda: server.wait([], 0.01) or server.accept() or caplog.records)
        assert "who it is" in caplog.text or "no hello of a member" in caplog.text


def test_tcp_takes_no_message_that_was_changed_repeated_or_made_up():
    for tamper in ("head", "length", "repeated", "made up", "other direction"):
        with link("tcp") as net:
            server = net.transport(key=OURS)
            near, far = net.open(server, net.transport(key=OURS), server.listen())
            seals = {
                "made up": Seal(OTHERS, b"to listener"),
                "other direction": near._session.sends,
            }
            start, _, _ = frame.pack(
                b"head",
                [bytes(64)],
                sequence=0,
                max_body_bytes=1 << 20,
                seal=seals.get(tamper, far._session.sends),
            )
            raw = bytearray(start + bytes(64))
            if tamper == "head":
                raw[frame.HEAD_START] ^= 1
            if tamper == "length":
                raw[8:12] = struct.pack("<I", 0)
            if tamper == "repeated":
                far._socket.sendall(raw)
                assert next_message(server, near) == (b"head", bytes(64))
            far._socket.sendall(raw)
            with pytest.raises(PeerLost, match="tag is wrong|came where"):
                next_message(server, near)


def control_ends(key=OURS):
    server = ControlServer(TO_PLANNER, OURS)
    return server, ControlClient(server.bind("127.0.0.1", 0), FROM_PLANNER, key)


def talk(server, client, message):
    client.send(message)
    for _ in range(int(PATIENCE_S * 100)):
        if arrived := server.receive(0.01):
            return arrived
        client.receive(0)
    raise AssertionError("nothing came")


def test_a_control_client_with_a_wrong_key_is_told_what_to_do():
    server, client = control_ends(OTHERS)
    with pytest.raises(ConfigError, match=WHAT_TO_DO):  # noqa: PT012
        while True:
            client.send(MembersQuery())
            assert server.receive(0.01) == []
    assert server.num_dropped
    client.close()
    server.close()


@pytest.fixture
def ends():
    server, client = control_ends()
    yield server, client
    client.close()
    server.close()


def test_a_control_message_is_taken_once(ends):
    server, client = ends
    [(peer, _)] = talk(server, client, MembersQuery())
    frames = client._talk.wrap(encode(MembersQuery()))
    for _ in range(3):
        client._socket.send_multipart(frames)
    client.send(Goodbye())
    arrived = []
    until(lambda: arrived.extend(server.receive(0.01)) or len(arrived) >= 2)
    assert [message for _, message in arrived] == [MembersQuery(), Goodbye()]
    assert server.num_dropped == 2
    server.send(peer, Members([]))
    until(lambda: client.receive(0.01) == [Members([])])


@given(at=st.integers(0, HEAD.size - 1), bit=st.integers(0, 7))
def test_a_control_message_with_any_bit_changed_is_dropped(at, bit):
    listener = ControlServer(TO_PLANNER, OURS)
    dialer = ControlClient("tcp://127.0.0.1:9", FROM_PLANNER, OURS)
    challenges = []
    listener._say = lambda _peer, *frames: challenges.append([*frames])  # no sockets are opened
    listener._challenge(b"peer")
    dialer._take(challenges[0])
    good = [b"peer", *dialer._talk.wrap(encode(MembersQuery()))]
    head = bytearray(good[1])
    head[at] ^= 1 << bit
    assert listener._take([b"peer", bytes(head), good[2]]) is None
    assert listener._take([b"peer", good[1], good[2][:-1] + b"x"]) is None
    if HEAD.unpack(bytes(head))[0] != b"H":  # else the peer begins anew
        assert listener._take(good) == MembersQuery()
    assert listener._take(good) is None
    assert listener._take([b"other", *good[1:]]) is None


def test_a_stranger_on_the_control_port_harms_nobody(ends):
    server, client = ends
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(client.address)
    for frames in ([b""], [b"x" * HEAD.size, b"y"], [HEAD.pack(DATA, b"", b"", 1, NO_TAG), b"z"]):
        stranger.send_multipart(frames)
    assert talk(server, client, MembersQuery())[0][1] == MembersQuery()
    stranger.close(linger=0)
    context.term()


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key("") == b""
    file = tmp_path / "key"
    file.write_text("0123456789abcdef\n")
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    assert read_key("") == read_key(str(file)) != b""
    file.write_text("short")
    with pytest.raises(ConfigError, match="5 bytes; at least 16.*openssl rand"):
        read_key(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(str(tmp_path / "none"))


def test_addresses_are_advertised_under_another_host():
    assert advertised("tcp://0.0.0.0:12", "node1") == "tcp://node1:12"
    assert advertised("tcp://[::]:12", "fe80::1") == "tcp://[fe80::1]:12"
    assert advertised("shm://lendkv-1-2", "node1") == "shm://lendkv-1-2"
    assert advertised("tcp://127.0.0.1:12", "") == "tcp://127.0.0.1:12"
