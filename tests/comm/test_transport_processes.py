"""Channels between real processes: killed, stopped, restarted. None takes this one with it."""

import json
import os
import signal

import pytest
from comm_harness import (
    PATIENCE_S,
    PROCESS_TRANSPORT_NAMES,
    link,
    next_message,
    peer_process,
    until,
)

from engine.errors import PeerLost


@pytest.fixture(params=PROCESS_TRANSPORT_NAMES)
def net(request):
    with link(request.param) as made:
        yield made


def dial(net, server, address):
    """A peer process that echoes, and our channel to it."""
    process = peer_process("dial", net.name, json.dumps(net.options), address)
    started = process.__enter__()
    accepted = []

    def arrived():
        server.wait([], 0.05)
        accepted.extend(server.accept())
        return accepted

    until(arrived)
    return process, started, accepted[0]


@pytest.fixture
def echoes(net):
    """A listener with two peer processes: (server, [(process, channel), (process, channel)])."""
    server = net.transport()
    address = server.listen()
    peers = [dial(net, server, address) for _ in range(2)]
    yield server, [(process, channel) for _, process, channel in peers]
    for manager, process, _ in peers:
        process.send_signal(signal.SIGCONT)
        manager.__exit__(None, None, None)


def test_another_process_echoes(echoes):
    server, [(_, channel), _] = echoes
    bodies = [os.urandom(n * 1000) for n in range(50)]
    for i, body in enumerate(bodies):
        channel.send(b"%d" % i, body)
    for i, body in enumerate(bodies):
        assert next_message(server, channel) == (b"%d" % i, body)


def test_a_sleeping_process_is_woken_by_every_message(echoes):
    server, [(_, channel), _] = echoes
    for i in range(300):
        server.wait([], 0.0002 * (i % 5))  # from spinning to asleep
        channel.send(b"%d" % i)
        until(lambda: channel in server.wait([channel], PATIENCE_S))
        message = channel.receive()
        assert message is not None
        assert message[0] == b"%d" % i
        assert channel.receive() is None


def test_a_killed_peer_is_lost_after_what_it_said(echoes):
    server, [(process, channel), (_, other)] = echoes
    for i in range(20):
        channel.send(b"%d" % i, bytes(2000))
    channel.send(b"print", b"said all")
    server.wait([channel], 0)
    assert process.stdout.readline() == "said all\n"
    process.kill()
    process.wait()
    for i in range(20):
        assert next_message(server, channel) == (b"%d" % i, bytes(2000))
    with pytest.raises(PeerLost):
        next_message(server, channel)
    other.send(b"and you?")
    assert next_message(server, other) == (b"and you?", b"")


def test_a_stopped_peer_is_silent_and_goes_on_later(echoes):
    server, [(process, frozen), (_, other)] = echoes
    os.kill(process.pid, signal.SIGSTOP)
    frozen.send(b"asleep?")
    assert server.wait([frozen], 0.05) == []
    other.send(b"awake?")
    until(lambda: server.wait([frozen, other], 1.0) == [other])
    assert next_message(server, other) == (b"awake?", b"")
    body = bytes(500_000)
    num_sent = 0
    while frozen.unsent_bytes < 1_000_000:
        frozen.send(b"%d" % num_sent, body)
        num_sent += 1
    assert server.wait([frozen], 0.01) == []
    os.kill(process.pid, signal.SIGCONT)
    assert next_message(server, frozen) == (b"asleep?", b"")
    for i in range(num_sent):
        assert next_message(server, frozen) == (b"%d" % i, body)


def test_a_stopped_peer_can_be_killed(echoes):
    server, [(process, channel), _] = echoes
    os.kill(process.pid, signal.SIGSTOP)
    channel.send(b"asleep?")
    process.kill()
    with pytest.raises(PeerLost):
        next_message(server, channel)


def test_a_killed_listener_restarts_on_its_address(net):
    client = net.transport()
    with peer_process("serve", net.name, "{}") as process:
        address = process.stdout.readline().strip()
        channel = client.connect(address, PATIENCE_S)
        channel.send(b"1")
        assert next_message(client, channel) == (b"1", b"")
        process.kill()
        with pytest.raises(PeerLost):
            next_message(client, channel)
    with pytest.raises(PeerLost, match="does not answer"):
        client.connect(address, 0.2)
    with peer_process("serve", net.name, json.dumps(net.options | net.at(address))) as process:
        assert process.stdout.readline().strip() == address
        channel = client.connect(address, PATIENCE_S)
        channel.send(b"2")
        assert next_message(client, channel) == (b"2", b"")


def test_peers_come_and_go_without_a_trace(net):
    server = net.transport()
    address = server.listen()

    def visit():
        with peer_process("dial", net.name, json.dumps(net.options), address):
            accepted = []
            until(lambda: server.wait([], 0.05) or accepted.extend(server.accept()) or accepted)
        with pytest.raises(PeerLost):
            next_message(server, accepted[0])
        accepted[0].close()
        return len(os.listdir("/proc/self/fd"))

    assert visit() == visit()
