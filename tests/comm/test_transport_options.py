"""Options that cannot work are refused at once, in a sentence with the numbers. And loopback's own
faults, services and limits."""

import dataclasses
import os

import pytest
from comm_harness import link

from engine.comm import TRANSPORTS, handshake, shm
from engine.comm.loopback import LoopbackNetwork, LoopbackTransport
from engine.errors import ConfigError, PeerLost


@pytest.mark.parametrize("name", TRANSPORTS.names())
def test_configs_are_frozen_with_one_mebibyte_bodies(name):
    config = TRANSPORTS.load(name).Config()
    assert config.max_body_bytes == 1 << 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_body_bytes = 1


@pytest.mark.parametrize("name", TRANSPORTS.names())
@pytest.mark.parametrize("max_body_bytes", [-1, 1 << 31])
def test_impossible_bodies_are_refused(name, max_body_bytes):
    kind = TRANSPORTS.load(name)
    with pytest.raises(ConfigError, match=f"max_body_bytes is {max_body_bytes}"):
        kind(kind.Config(max_body_bytes=max_body_bytes))


@pytest.mark.parametrize("ring_bytes", [0, 4096, 2 << 20, (4 << 20) + 1, 1 << 31])
def test_rings_that_could_jam_are_refused(ring_bytes):
    with pytest.raises(ConfigError, match=rf"ring_bytes is {ring_bytes}.*1048576 needs at least 2"):
        shm.ShmTransport(shm.ShmTransport.Config(ring_bytes=ring_bytes))


def test_rings_of_exactly_two_frames_do_not_jam():
    with link("shm", max_body_bytes=1 << 16, ring_bytes=0x41000) as net:
        server, near, client, far = net.pair()
        assert handshake.ring_fault(0x40000, 1 << 16)
        for i in range(20):
            far.send(b"h" * (1 << 16), bytes([i]) * (1 << 16))
        for i in range(20):
            client.wait([far], 0)
            assert server.wait([near], 1.0) == [near]
            message = near.receive()
            assert message is not None
            assert message[1] == bytes([i]) * (1 << 16)


def test_a_pool_that_could_shrink_is_refused():
    fd = os.memfd_create("unsealed")
    try:
        with pytest.raises(ConfigError, match="sealed against shrinking"):
            shm.ShmTransport(shm.ShmTransport.Config(), region_fd=fd)
    finally:
        os.close(fd)


def test_shared_memory_that_is_not_there_is_refused_with_its_length(monkeypatch):
    def full(fd, num_bytes):
        raise OSError(28, "No space left on device")

    with link("shm") as net:
        client = net.transport()
        monkeypatch.setattr(os, "ftruncate", full)
        with pytest.raises(ConfigError, match="no 8396800 bytes .*No space left.*lower ring_bytes"):
            client.connect("shm://anybody", 0.1)


def test_a_shm_name_beyond_the_systems_limit_is_refused():
    with link("shm", name="n" * 200) as net, pytest.raises(ConfigError, match="another name"):
        net.transport().listen()


def test_a_tcp_host_of_another_machine_is_refused():
    with link("tcp", host="192.0.2.1") as net, pytest.raises(ConfigError, match="check host"):
        net.transport().listen()


def test_tcp_speaks_ipv6_where_there_is_any():
    with link("tcp", host="::1") as net:
        try:
            _, near, _, far = net.pair()
        except ConfigError:
            pytest.skip("no IPv6 on this machine")
        assert far.peer.startswith("tcp://[::1]:")


@pytest.fixture
def net():
    with link("loopback") as made:
        yield made


def test_loopback_waits_by_running_the_services_of_its_thread(net):
    server, near, client, far = net.pair()

    def serve():
        for channel in server.wait([near], 0):  # waits within a wait: pumps nothing
            head, body = channel.receive()
            channel.send(head + b"!", bytes(body))
            return True
        return False

    net.network.services.append(serve)
    assert client.wait([far], 10.0) == []
    far.send(b"hello", b"body")
    assert client.wait([far], 10.0) == [far]
    head, body = far.receive()
    assert (head, bytes(body)) == (b"hello!", b"body")


def test_loopback_cut_loses_all_channels_of_an_address(net):
    server, client = net.transport(), net.transport()
    address = server.listen()
    ends = [net.open(server, client, address) for _ in range(2)]
    ends[0][0].send(b"last words")
    net.network.cut(address)
    net.network.cut(address)
    assert ends[0][1].receive()[0] == b"last words"
    for _, far in ends:
        with pytest.raises(PeerLost):
            far.receive()
    with pytest.raises(PeerLost):
        client.connect(address, 0)
    assert net.transport(**net.at(address)).listen() == address


def test_loopback_freeze_stops_delivery_until_thaw(net):
    server, near, client, far = net.pair()
    net.network.freeze(far.peer)
    far.send(b"in", b"1")
    near.send(b"out", b"2")
    assert near.receive() is None
    assert client.wait([far], 1.0) == []
    assert far.unsent_bytes == 3
    with pytest.raises(PeerLost):
        client.connect(far.peer, 0)
    net.network.thaw(far.peer)
    assert near.receive()[0] == b"in"
    assert far.receive()[0] == b"out"


def test_loopback_networks_are_apart():
    one, two = LoopbackNetwork(), LoopbackNetwork()
    address = LoopbackTransport(LoopbackTransport.Config(), network=one).listen()
    with pytest.raises(PeerLost):
        LoopbackTransport(LoopbackTransport.Config(), network=two).connect(address, 0)
