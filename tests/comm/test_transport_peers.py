"""The contract of engine/comm/base.py on who comes, goes and comes again, on every transport."""

import os
import threading

import pytest
from comm_harness import next_message, sealed_region, until

from engine.errors import ConfigError, PeerLost


def test_what_was_sent_before_a_close_arrives_then_the_peer_is_lost(net):
    server, near, _, far = net.pair()
    near.send(b"unread", bytes(100))  # must not cost the peer what we sent
    far.send(b"one", b"1")
    far.send(b"two", bytes(50_000))
    far.close()
    far.close()
    assert next_message(server, near) == (b"one", b"1")
    assert next_message(server, near) == (b"two", bytes(50_000))
    with pytest.raises(PeerLost, match="closed by the peer|reset"):
        next_message(server, near)
    assert server.wait([near], 0) == [near]
    with pytest.raises(PeerLost):
        near.receive()
    with pytest.raises(PeerLost):
        near.send(b"anyone?")
    with pytest.raises(PeerLost, match="closed here"):
        far.receive()
    with pytest.raises(PeerLost, match="closed here"):
        far.send(b"")


def test_a_lost_peer_is_noticed_beside_a_busy_one(net):
    server = net.transport()
    address = server.listen()
    clients = [net.transport() for _ in range(2)]
    (near_busy, busy), (near_gone, gone) = (net.open(server, c, address) for c in clients)
    gone.close()

    def busy_or_gone() -> bool:
        busy.send(b"more")
        near_busy.receive()
        busy.send(b"more")
        return near_gone in server.wait([near_busy, near_gone], 1.0)

    until(busy_or_gone)


def test_wait_returns_when_a_peer_wants_to_connect(net):
    server, client = net.transport(), net.transport()
    address = server.listen()
    assert server.accept() == []
    near, far = net.open(server, client, address)  # its loop waits with no channels at all
    assert near.peer
    assert far.peer == address


def test_a_peer_that_never_comes_is_lost_within_the_timeout(net):
    server, client = net.transport(), net.transport()
    address = server.listen()
    server.close()
    server.close()
    with pytest.raises(PeerLost, match="does not answer"):
        client.connect(address, 0.2)


@pytest.mark.parametrize("address", ["", "tcp://", "tcp://host", "shm:/x", "tcp://127.0.0.1:99999"])
def test_an_address_that_makes_no_sense_is_a_lost_peer(net, address):
    with pytest.raises(PeerLost):
        net.transport().connect(address, 0.2)


def test_a_taken_address_is_refused_by_name(net):
    first = net.transport()
    address = first.listen()
    second = net.transport(**net.at(address))
    with pytest.raises(ConfigError, match=rf"{address}.*choose another"):
        second.listen()


def test_a_peer_may_restart_on_its_address(net):
    first = net.transport()
    address = first.listen()
    client = net.transport()
    _, far = net.open(first, client, address)
    first.close()
    with pytest.raises(PeerLost):
        next_message(client, far)
    again = net.transport(**net.at(address))
    assert again.listen() == address
    near, far = net.open(again, client, address)
    near.send(b"back")
    assert next_message(client, far) == (b"back", b"")


def test_closing_leaves_no_descriptor_mapping_or_thread(net):
    fd = sealed_region(bytes(4096))

    def use() -> tuple[int, int, int]:
        server, near, client, far = net.pair(region_fd=fd)
        far.send(b"h", bytes(1000))
        assert next_message(server, near)
        far.send(b"unread", bytes(1000))
        net.close()
        with open("/proc/self/maps") as maps:
            num_maps = sum("lendkv-rings" in line or "test-pool" in line for line in maps)
        return len(os.listdir("/proc/self/fd")), num_maps, threading.active_count()

    try:
        before = len(os.listdir("/proc/self/fd")), 0, threading.active_count()
        assert use() == before
        assert use() == before
    finally:
        os.close(fd)
