"""Whatever a peer writes into shared rings costs it its channel, and this process nothing."""

import fcntl
import os
import socket
import struct
import threading

import pytest
from comm_harness import LIMIT, PATIENCE_S, drain, header, link, next_message
from hypothesis import example, given
from hypothesis import strategies as st

from engine.comm import frame, handshake
from engine.comm.auth import CHALLENGE, Dialer
from engine.comm.ring import FILLER, PAGE_BYTES, READ, WRITTEN
from engine.errors import PeerLost

RING_BYTES = 1 << 18
SMALL_RINGS = {**LIMIT, "ring_bytes": RING_BYTES}


def rings_of(channel):
    """The client's shared memory: what a hostile client could write, whenever it likes."""
    return memoryview(channel._memory)


def poke(memory, offset, value):
    struct.pack_into("<Q", memory, offset, value & ((1 << 64) - 1))


@pytest.mark.parametrize("written", [1, 63, 65, RING_BYTES, RING_BYTES + 64, 1 << 63, -1, -64])
def test_shm_survives_a_senseless_count_of_written_bytes(written):
    with link("shm", **SMALL_RINGS) as net:
        server, near, _, far = net.pair()
        with rings_of(far) as memory:
            poke(memory, WRITTEN, written)
            assert server.wait([near], 0) == [near]
            assert drain(server, near)
            with pytest.raises(PeerLost):
                near.send(b"")


def test_shm_survives_a_count_of_written_bytes_that_goes_back():
    with link("shm", **SMALL_RINGS) as net:
        server, near, _, far = net.pair()
        far.send(b"1")
        assert next_message(server, near)
        with rings_of(far) as memory:
            poke(memory, WRITTEN, 0)
        with pytest.raises(PeerLost, match="says 0 bytes were written"):
            next_message(server, near)


@pytest.mark.parametrize("read", [1 << 63, -1, RING_BYTES * 2])
def test_shm_survives_a_senseless_count_of_read_bytes(read):
    with link("shm", **SMALL_RINGS) as net:
        server, near, _, far = net.pair()
        with rings_of(far) as memory:
            poke(memory, PAGE_BYTES + RING_BYTES + READ, read)
        with pytest.raises(PeerLost, match="bytes were read"):  # noqa: PT012
            for _ in range(100):
                near.send(b"", bytes(10_000))
        assert server.wait([near], 0) == [near]


@pytest.mark.parametrize(("body", "written"), [(1000, 64), (64, 64), (10_000, 8192), (0, 128)])
def test_shm_delivers_no_frame_beyond_what_was_written(body, written):
    with link("shm", **SMALL_RINGS) as net:
        server, near, _, far = net.pair()
        with rings_of(far) as memory:
            memory[PAGE_BYTES : PAGE_BYTES + frame.HEAD_START] = header(body=body)
            poke(memory, WRITTEN, written)
        if body == 0:
            assert next_message(server, near) == (b"", b"")  # itself whole; nonsense follows
        with pytest.raises(PeerLost, match="arrived|starts with"):
            next_message(server, near)


def test_shm_delivers_no_frame_across_the_end_of_the_ring():
    with link("shm", **SMALL_RINGS) as net:
        server, near, client, far = net.pair()
        num_sent = (RING_BYTES - 64) // 64
        for _ in range(num_sent):
            far.send(b"")
            assert next_message(server, near) == (b"", b"")
        with rings_of(far) as memory:
            at = PAGE_BYTES + RING_BYTES - 64
            memory[at : at + frame.HEAD_START] = header(body=200, number=num_sent)
            poke(memory, WRITTEN, RING_BYTES + 640)
        with pytest.raises(PeerLost, match="frame of 320 bytes"):
            next_message(server, near)


def test_shm_looks_once_more_after_it_has_seen_the_end():
    with link("shm") as net:
        _, near, _, far = net.pair()
        listen = near.listen_to_socket

        def late() -> None:
            far.send(b"late", b"but whole")
            far.close()
            listen()

        near.listen_to_socket = late
        head, body = near.receive()
        assert (head, bytes(body)) == (b"late", b"but whole")


@given(data=st.data())
@example(data=None)
def test_shm_survives_any_corruption_of_its_memory(data):
    with link("shm", **SMALL_RINGS) as net:
        server, near, client, far = net.pair()
        near.send(b"warm", bytes(5000))
        with rings_of(far) as memory:
            for i in range(4):
                far.send(b"head", bytes(100 * i))
            if data is None:  # a filler that leads to a filler
                for at in (0, 64):
                    struct.pack_into("<I", memory, PAGE_BYTES + at, FILLER)
            else:
                words = [0, 64, 128, 192]
                places = words + [PAGE_BYTES + RING_BYTES + word for word in words]
                frames = st.integers(PAGE_BYTES, PAGE_BYTES + 1500)
                for _ in range(data.draw(st.integers(1, 4))):
                    at = data.draw(st.sampled_from(places) | frames)
                    new = data.draw(st.binary(min_size=1, max_size=8) | st.just(b"SKIP"))
                    memory[at : at + len(new)] = new
            drain(server, near)
            for _ in range(3):
                try:
                    near.send(b"answer", bytes(10_000))
                except PeerLost:
                    break
            server.wait([near], 0)


def hello(server, address, packet, fds):
    """A member's socket that offers these rings."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect("\0" + address.removeprefix("shm://"))
    dialer = Dialer(b"")
    sock.send(dialer.hello)
    server.wait([], PATIENCE_S)
    assert server.accept() == []
    proof, _ = dialer.take(sock.recv(CHALLENGE.size))
    socket.send_fds(sock, [proof + packet], fds)
    return sock


def shared_file(num_bytes, seals=fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW):
    fd = os.memfd_create("rings", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, num_bytes)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


RIGHT = 2 * (PAGE_BYTES + RING_BYTES)


@pytest.mark.parametrize(
    ("packet", "num_bytes", "fault"),
    [
        (b"garbage", [RIGHT], "no hello"),
        (handshake.HELLO.pack(handshake.MAGIC, RING_BYTES), [], "no hello"),
        (handshake.HELLO.pack(handshake.MAGIC, RING_BYTES), [RIGHT, RIGHT], "no hello"),
        (handshake.HELLO.pack(b"LKVRING0", RING_BYTES), [RIGHT], "no hello"),
        (handshake.HELLO.pack(handshake.MAGIC, RING_BYTES), [RIGHT - 1], "do not hold"),
        (handshake.HELLO.pack(handshake.MAGIC, 4096), [RIGHT], "needs at least"),
        (handshake.HELLO.pack(handshake.MAGIC, 1 << 62), [RIGHT], "at most"),
        (handshake.HELLO.pack(handshake.MAGIC, RING_BYTES), [-RIGHT], "not sealed"),
    ],
)
def test_shm_refuses_rings_that_could_hurt(packet, num_bytes, fault):
    with link("shm", **SMALL_RINGS) as net:
        server = net.transport()
        address = server.listen()
        num_open = len(os.listdir("/proc/self/fd"))
        files = [shared_file(abs(n), 0 if n < 0 else fcntl.F_SEAL_SHRINK) for n in num_bytes]
        with hello(server, address, packet, files) as sock:
            server.wait([], PATIENCE_S)
            assert server.accept() == []
            assert fault in sock.recv(1000).decode()
        for fd in files:
            os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == num_open
        near, far = net.open(server, net.transport(), address)
        far.send(b"others are served")
        assert next_message(server, near) == (b"others are served", b"")


def test_shm_tells_a_client_with_other_limits_why():
    with link("shm", **SMALL_RINGS) as net, link("shm") as large:
        server = large.transport()
        address = server.listen()
        stop = threading.Event()

        def serve():
            while not stop.is_set():
                server.wait([], 0.01)
                server.accept()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(
                PeerLost, match="ring_bytes is 262144; max_body_bytes 1048576 needs"
            ):
                net.transport().connect(address, PATIENCE_S)
        finally:
            stop.set()
            thread.join()


def test_shm_holds_few_strangers_that_never_speak():
    with link("shm") as net:
        server = net.transport()
        address = server.listen()
        num_open = len(os.listdir("/proc/self/fd"))
        silent = []
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect("\0" + address.removeprefix("shm://"))
            silent.append(sock)
            assert server.accept() == []
        assert len(os.listdir("/proc/self/fd")) <= num_open + 100 + 64
        near, far = net.open(server, net.transport(), address)
        far.send(b"served")
        assert next_message(server, near) == (b"served", b"")
        for sock in silent:
            sock.close()


def test_shm_bells_without_need_do_no_harm():
    with link("shm") as net:
        server, near, _, far = net.pair()
        for _ in range(100):
            far._socket.send(b"ring ring")
        far.send(b"h", b"b")
        assert next_message(server, near) == (b"h", b"b")
        server.wait([near], 0.01)
        assert server.wait([near], 0.01) == []
