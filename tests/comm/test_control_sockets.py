"""Control sockets: round trips, and no harm from garbage, absence or a taken port."""

import logging
import os
import select
import time

import pytest
import zmq

from engine.comm.control import ControlClient, ControlServer
from engine.errors import ConfigError, PeerLost
from engine.protocol import FROM_PLANNER, TO_PLANNER, Goodbye, Members, MembersQuery

PATIENCE_S = 20.0
KEY = b"k" * 32


def heard(server, *clients):
    """What a server receives next; clients shake hands meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if arrived := server.receive(0.01):
            return arrived
        for client in clients:
            assert client.receive(0) == []
    raise AssertionError("nothing came")


@pytest.fixture
def ends():
    server = ControlServer(TO_PLANNER, KEY)
    client = ControlClient(server.bind("127.0.0.1", 0), FROM_PLANNER, KEY)
    yield server, client
    client.close()
    client.close()
    server.close()
    server.close()


def test_messages_make_a_round_trip_in_order(ends):
    server, client = ends
    for _ in range(3):
        client.send(MembersQuery())
    client.send(Goodbye())
    arrived = []
    while len(arrived) < 4:
        arrived += heard(server, client)
    assert [message for _, message in arrived] == [MembersQuery()] * 3 + [Goodbye()]
    server.send(arrived[0][0], Members([]))
    assert client.receive(PATIENCE_S) == [Members([])]
    assert client.receive(0) == []
    assert server.receive(0.01) == []


def test_a_server_tells_its_clients_apart(ends):
    server, client = ends
    other = ControlClient(client.address, FROM_PLANNER, KEY)
    client.send(MembersQuery())
    [(first, _)] = heard(server, client)
    other.send(MembersQuery())
    [(second, _)] = heard(server, other)
    assert first != second
    server.send(second, Goodbye())
    assert other.receive(PATIENCE_S) == [Goodbye()]
    assert client.receive(0.01) == []
    other.close()


def test_garbage_is_dropped_counted_and_logged_sparsely(ends, caplog):
    server, client = ends
    client.fileno()  # opens the socket
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            client._socket.send(b"\xc1 garbage")
        client._socket.send_multipart([b"two", b"frames"])
        client.send(MembersQuery())
        arrived = heard(server, client)
    assert [message for _, message in arrived] == [MembersQuery()]
    assert server.num_dropped == 9
    assert len(caplog.records) == 4  # the 1st, 2nd, 4th and 8th
    server.send(arrived[0][0], MembersQuery())  # nothing a planner says
    deadline = time.monotonic() + PATIENCE_S
    while not client.num_dropped and time.monotonic() < deadline:
        assert client.receive(0.01) == []
    assert client.num_dropped == 1


def test_a_taken_port_is_refused_with_the_address_and_what_to_do(ends):
    _, client = ends
    port = int(client.address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"cluster.port={port}: .*another cluster.port, or 0"):
        ControlServer(TO_PLANNER).bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cluster.host=no.such.interface .*address of this host"):
        ControlServer(TO_PLANNER).bind("no.such.interface", 0)
    with pytest.raises(ConfigError, match="no control address"):
        ControlClient("nonsense", FROM_PLANNER).send(Goodbye())


def test_a_peer_that_is_gone_is_lost(ends):
    server, _ = ends
    with pytest.raises(PeerLost):
        server.send(b"nobody", Goodbye())


def test_an_absent_server_fills_the_queue_and_blocks_nobody():
    client = ControlClient("tcp://127.0.0.1:9", FROM_PLANNER)
    with pytest.raises(PeerLost):  # noqa: PT012
        for _ in range(100_000):
            client.send(Goodbye())
    client.close()


def test_the_descriptor_and_pending_lead_a_poll_loop(ends):
    server, client = ends
    client.send(MembersQuery())
    assert heard(server, client)
    for _ in range(20):
        client.send(MembersQuery())
        while not server.pending():
            assert select.select([server.fileno()], [], [], PATIENCE_S)[0]
        assert server.receive(0)
        assert not server.pending()


def test_nothing_starts_before_the_first_use_and_nothing_stays():
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def count():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    server, client = ControlServer(TO_PLANNER), ControlClient("tcp://127.0.0.1:9", FROM_PLANNER)
    assert count() == before
    server.bind("127.0.0.1", 0)
    client.send(Goodbye())
    client.close()
    server.close()
    assert count() == before


def test_a_restarted_server_is_found_again(ends):
    server, client = ends
    client.send(MembersQuery())
    assert heard(server, client)
    port = int(client.address.rpartition(":")[2])
    server.close()
    again = ControlServer(TO_PLANNER, KEY)
    again.bind("127.0.0.1", port)
    try:
        for _ in range(200):
            client.send(MembersQuery())
            if again.receive(0.1):
                return
        pytest.fail("the client never came back")
    finally:
        again.close()


def test_the_receive_side_bounds_message_length(ends):
    server, _ = ends
    assert server._socket.getsockopt(zmq.MAXMSGSIZE) > 0
