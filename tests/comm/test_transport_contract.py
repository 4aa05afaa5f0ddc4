"""The contract of engine/comm/base.py, on every transport of the registry."""

import os
import threading

import pytest
from comm_harness import (
    PATIENCE_S,
    TRANSPORT_NAMES,
    fresh,
    link,
    next_message,
    sealed_region,
    until,
)
from hypothesis import given
from hypothesis import strategies as st

from engine.comm.base import Channel, Transport
from engine.errors import PeerLost


def test_messages_arrive_whole_and_in_order_both_ways(net):
    server, near, client, far = net.pair()
    for i in range(100):
        far.send(b"ask%d" % i, bytes([i]) * i, b"|", memoryview(b"tail"))
        near.send(b"say%d" % i)
    for i in range(100):
        assert next_message(server, near) == (b"ask%d" % i, bytes([i]) * i + b"|tail")
        assert next_message(client, far) == (b"say%d" % i, b"")
    assert near.receive() is None


def test_empty_heads_and_bodies_are_messages(net):
    server, near, _, far = net.pair()
    far.send(b"")
    far.send(b"", b"", b"")
    far.send(b"end", memoryview(b"").cast("f"))
    assert [next_message(server, near) for _ in range(3)] == [(b"", b""), (b"", b""), (b"end", b"")]


def test_parts_may_be_arrays_of_any_shape(net):
    server, near, _, far = net.pair()
    far.send(b"h", memoryview(bytes(range(24))).cast("i", (2, 3)), bytearray(b"xy"))
    assert next_message(server, near) == (b"h", bytes(range(24)) + b"xy")


def test_largest_body_passes_and_a_larger_one_is_the_senders_mistake(net):
    server, near, client, far = net.pair()
    body = os.urandom(far.max_body_bytes)
    with pytest.raises(ValueError, match="1048577 bytes, at most 1048576"):
        far.send(b"", body, b"!")
    head = b"h" * (64 << 10)
    far.send(head, body)
    assert next_message(server, near, pushing(client, far)) == (head, body)


def test_a_head_may_be_as_large_as_a_body_but_not_beside_one(net):
    server, near, client, far = net.pair()
    head = os.urandom(1 << 20)
    far.send(head)
    with pytest.raises(ValueError, match="shares"):
        far.send(head, bytes(1 << 20))
    with pytest.raises(ValueError, match="head of"):
        far.send(head + b"!")
    far.send(b"after", b"it")
    assert next_message(server, near, pushing(client, far)) == (head, b"")
    assert next_message(server, near, pushing(client, far)) == (b"after", b"it")


def test_a_body_stays_valid_until_the_next_receive(net):
    server, near, client, far = net.pair()
    sent = [os.urandom(200_000) for _ in range(60)]
    for i, body in enumerate(sent):
        far.send(b"%d" % i, body)
    for i, body in enumerate(sent):
        until(lambda: near in server.wait([near], 0.01) or client.wait([far], 0))
        message = near.receive()
        assert message is not None
        client.wait([far], 0)
        server.wait([near], 0)
        assert (message[0], bytes(message[1])) == (b"%d" % i, body)


def test_bodies_lie_on_a_boundary_of_sixteen_bytes(net):
    np = pytest.importorskip("numpy")
    server, near, _, far = net.pair()
    for i in range(40):
        far.send(b"h" * i, bytes(1 + i))
        until(lambda: near in server.wait([near], 0.01))
        _, body = near.receive()
        assert np.frombuffer(body, np.uint8).ctypes.data % 16 == 0


def test_senders_never_block_and_what_is_queued_drains(net):
    server, near, client, far = net.pair()
    num_sent, body = 0, os.urandom(100_000)
    while far.unsent_bytes < 3_000_000:
        far.send(b"%d" % num_sent, body)
        num_sent += 1
        assert num_sent < 1000
    for i in range(num_sent):
        assert next_message(server, near, lambda: client.wait([far], 0)) == (b"%d" % i, body)
    until(lambda: client.wait([far], 0) or far.unsent_bytes == 0)


def test_a_sleeping_sender_is_woken_when_its_peer_makes_room(net):
    if net.name == "loopback":
        pytest.skip("one thread cannot sleep and make room")
    server, near, client, far = net.pair()
    num_sent, body = 0, bytes(100_000)
    while far.unsent_bytes < 3_000_000:
        far.send(b"", body)
        num_sent += 1
    read, write = os.pipe()

    def sleep_until_told() -> None:
        client.wait([far], 3 * PATIENCE_S, also=[read])

    sleeper = threading.Thread(target=sleep_until_told)
    sleeper.start()
    server.wait([], 0.05)  # let it fall asleep
    try:
        for _ in range(num_sent):
            assert next_message(server, near) == (b"", body)
        until(lambda: far.unsent_bytes == 0)
    finally:
        os.write(write, b"x")
        sleeper.join()
        os.close(read)
        os.close(write)


def test_both_sides_flood_each_other_without_deadlock(net):
    server, near, client, far = net.pair()
    body, count = os.urandom(300_000), 60
    for i in range(count):
        far.send(b"f%d" % i, body)
        near.send(b"n%d" % i, body)
    got: dict[str, list[bytes]] = {"near": [], "far": []}

    def drain(transport: Transport, channel: Channel, into: list[bytes]) -> bool:
        for ready in transport.wait([channel], 0.001):
            while (message := ready.receive()) is not None:
                assert bytes(message[1]) == body
                into.append(message[0])
        return len(into) == count

    until(lambda: drain(server, near, got["near"]) & drain(client, far, got["far"]))
    assert got["near"] == [b"f%d" % i for i in range(count)]
    assert got["far"] == [b"n%d" % i for i in range(count)]


def test_wait_names_the_channels_with_something_and_no_other(net):
    server = net.transport()
    address = server.listen()
    ends = [net.open(server, net.transport(), address) for _ in range(3)]
    nears = [near for near, _ in ends]
    assert server.wait(nears, 0) == []
    assert server.wait(nears, 0.01) == []
    ends[1][1].send(b"hello")
    until(lambda: server.wait(nears, 1.0) == [nears[1]])
    assert server.wait(nears, 0.01) == [nears[1]]
    assert nears[1].receive() is not None
    assert server.wait(nears, 0.01) == []


def test_wait_returns_when_another_descriptor_is_readable(net):
    server, near, _, _ = net.pair()
    read, write = os.pipe()
    try:
        timer = threading.Timer(0.05, os.write, (write, b"x"))
        timer.start()
        assert server.wait([near], 20.0, also=[read]) == []
        assert os.read(read, 1) == b"x"  # would block for ever without the byte
        timer.join()
    finally:
        os.close(read)
        os.close(write)


def test_a_body_above_the_receivers_limit_loses_the_sender_only(net):
    server = net.transport(max_body_bytes=1000)
    address = server.listen()
    (near, far), (near_good, good) = (net.open(server, net.transport(), address) for _ in range(2))
    far.send(b"fine", bytes(1000))
    far.send(b"big", bytes(100_000))
    assert next_message(server, near) == (b"fine", bytes(1000))
    with pytest.raises(PeerLost, match="1000"):
        next_message(server, near)
    good.send(b"still here")
    assert next_message(server, near_good) == (b"still here", b"")


def test_a_region_is_mapped_read_only_where_it_can_be(net):
    content = os.urandom(10_000)
    fd = sealed_region(content)
    try:
        _, near, _, far = net.pair(region=memoryview(bytearray(content)), region_fd=fd)
        assert near.region is None
        if net.name in ("nixl", "tcp", "torch"):
            assert far.region is None
            return
        assert far.region is not None
        assert bytes(far.region) == content
        assert far.region.readonly
        with pytest.raises(TypeError):
            far.region[0] = 1
        assert net.open(*fresh(net))[1].region is None
    finally:
        os.close(fd)


@pytest.fixture(scope="module", params=TRANSPORT_NAMES)
def listening(request):
    """A link whose bodies are short, a server of it, a client, and the server's address."""
    small = {"ring_bytes": 1 << 18} if request.param == "shm" else {}
    with link(request.param, max_body_bytes=60_000, **small) as net:
        yield net, *fresh(net)


@given(
    messages=st.lists(
        st.tuples(st.booleans(), st.binary(max_size=200), st.integers(0, 60_000)), max_size=40
    )
)
def test_any_sequence_of_messages_arrives_equal(listening, messages):
    net, server, client, address = listening
    near, far = net.open(server, client, address)
    sent: list[tuple[bytes, bytes]] = []
    received: list[tuple[bytes, bytes]] = []
    for drain_first, head, body_bytes in messages:
        if drain_first:
            client.wait([far], 0)
            if (message := near.receive()) is not None:
                received.append((message[0], bytes(message[1])))
        body = (head or b"?") * (body_bytes // (len(head) or 1))
        far.send(head, body)
        sent.append((head, body))
    while len(received) < len(sent):
        received.append(next_message(server, near, pushing(client, far)))
    assert received == sent
    far.close()
    near.close()


def pushing(client: Transport, far: Channel):
    """Pushes out what is queued at the sending end."""
    return lambda: client.wait([far], 0)
