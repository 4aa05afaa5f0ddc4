"""What is nixl's own: bodies written into windows, by whom, until when, and what is never written.

The contract that it shares with the other transports is tested with theirs.
"""

import os
import signal
from contextlib import contextmanager

import pytest
from comm_harness import NIXL, PATIENCE_S, link, next_message, peer_process, until

from engine.comm import nixl_agent, nixl_window
from engine.comm.nixl_channel import OFFER, PLACE, QUIET, TAKEN, WANT, WRITTEN
from engine.errors import PeerLost

LARGE = 100_000


@pytest.fixture(params=NIXL)
def net(request):
    with link(request.param) as made:
        yield made


def opened(net, **server_options):
    """A pair whose client has a window at the server."""
    server, near, client, far = net.pair(**server_options)
    far.send(b"first", bytes(LARGE))
    assert next_message(server, near) == (b"first", bytes(LARGE))
    until(lambda: client.wait([far], 0.001) or far._window)
    return server, near, client, far


def test_large_bodies_are_written_and_small_ones_keep_their_place(net):
    server, near, client, far = opened(net)
    bodies = [os.urandom(n) for n in (LARGE, 10, 1 << 20, 0, 20_000, 1 << 20, 5, 70_000)]
    for i, body in enumerate(bodies):
        far.send(b"%d" % i, body[: len(body) // 2], body[len(body) // 2 :])
    for i, body in enumerate(bodies):
        assert next_message(server, near, lambda: client.wait([far], 0)) == (b"%d" % i, body)
    until(lambda: client.wait([far], 0) or not far.unsent_bytes)
    assert far.written_bytes == sum(len(body) for body in bodies if len(body) >= 16 << 10)


def test_a_place_is_free_only_when_its_body_was_read(net):
    server, near, client, far = opened(net, bodies_under_way=1)
    halves = [os.urandom(1 << 19) for _ in range(6)]
    for i, half in enumerate(halves):
        far.send(b"%d" % i, half)
    for i, half in enumerate(halves):
        until(lambda: client.wait([far], 0) or near in server.wait([near], 0.001))
        message = near.receive()
        assert message is not None
        for _ in range(20):  # what comes behind it is written as soon as there is room
            client.wait([far], 0.001)
            server.wait([near], 0)
        assert (message[0], bytes(message[1])) == (b"%d" % i, half)
    assert far.unsent_bytes == 0


def test_what_lies_in_the_pool_is_written_from_there():
    with link("nixl-shm") as net:
        pool = bytearray(os.urandom(4 * LARGE))
        server, client = net.transport(), net.transport(region=memoryview(pool))
        near, far = net.open(server, client, server.listen())
        far.send(b"first", bytes(LARGE))
        assert next_message(server, near) == (b"first", bytes(LARGE))
        until(lambda: client.wait([far], 0.001) or far._window)
        for body in (memoryview(pool)[LARGE : 3 * LARGE], memoryview(pool)[2 * LARGE :]):
            far.send(b"block", body)
            assert next_message(server, near, lambda: client.wait([far], 0))[1] == bytes(body)
        assert far.written_bytes == 4 * LARGE
        staged = far._window._staging.view
        assert bytes(staged) == bytes(len(staged))
        far.send(b"none of the pool", bytes([7]) * LARGE)
        assert next_message(server, near, lambda: client.wait([far], 0))[1] == bytes([7]) * LARGE
        assert bytes(staged).count(7) == LARGE


@contextmanager
def echo_with_window(net):
    """A process that echoes, and a channel with a window there."""
    client = net.transport()
    with peer_process("serve", "nixl", '{"bulk_bytes": 1048577}') as process:
        channel = client.connect(process.stdout.readline().strip(), PATIENCE_S)
        channel.send(b"first", bytes(LARGE))
        assert next_message(client, channel) == (b"first", bytes(LARGE))
        until(lambda: client.wait([channel], 0.001) or channel._window)
        channel.send(b"warm", bytes(LARGE))
        assert next_message(client, channel) == (b"warm", bytes(LARGE))
        assert channel.written_bytes == LARGE
        yield process, client, channel
        process.send_signal(signal.SIGCONT)


def test_shared_memory_is_written_while_its_process_is_stopped_and_a_stream_waits(net):
    with echo_with_window(net) as (process, client, channel):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        num_sent = 0
        while channel.unsent_bytes < 2 << 20:
            channel.send(b"%d" % num_sent, bytes([num_sent]) * (1 << 20))
            client.wait([channel], 0)
            num_sent += 1
        if net.options["ucx_tls"] == "tcp":
            assert channel.written_bytes == LARGE
            assert num_sent == 2
        else:
            assert channel.written_bytes > 2 << 20
            assert num_sent > 4
        process.send_signal(signal.SIGCONT)
        for i in range(num_sent):
            assert next_message(client, channel) == (b"%d" % i, bytes([i]) * (1 << 20))
        assert channel.written_bytes == LARGE + num_sent * (1 << 20)


def test_who_gives_a_frozen_peer_up_waits_for_nothing_and_keeps_the_memory():
    with link("nixl-tcp") as net, echo_with_window(net) as (process, client, channel):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(3):
            channel.send(b"frozen", bytes(1 << 20))
        assert channel.is_writing()
        staging = channel._window._staging
        channel.close()
        assert staging._mapped in nixl_window._RESERVED
        assert staging not in client._bulk.stock._quiet
        with pytest.raises(PeerLost, match="closed here"):
            channel.send(b"", bytes(LARGE))


def test_a_peer_killed_while_it_is_written_to_is_lost(net):
    with echo_with_window(net) as (process, client, channel):
        process.send_signal(signal.SIGSTOP)
        for _ in range(8):
            channel.send(b"last", bytes(1 << 20))
        process.kill()
        with pytest.raises(PeerLost):
            next_message(client, channel)
        assert channel.unsent_bytes == 0
        with pytest.raises(PeerLost):
            channel.send(b"", bytes(LARGE))
        channel.close()


def test_a_window_serves_the_next_channel_only_when_its_sender_writes_no_more():
    with link("nixl-shm") as net:
        server, near, client, far = opened(net)
        window = near._inbound
        far.close()
        with pytest.raises(PeerLost):
            next_message(server, near)
        near.close()
        assert server._bulk.stock._quiet == [window]
        near, far = net.open(server, client, net_address(server))
        far.send(b"first", bytes(LARGE))
        assert next_message(server, near) == (b"first", bytes(LARGE))
        assert near._inbound is window
        near.close()  # before the sender has said that it is done
        assert server._bulk.stock._quiet == []
        assert window._mapped in nixl_window._RESERVED
        near, far = net.open(server, client, net_address(server))
        far.send(b"first", bytes(LARGE))
        assert next_message(server, near) == (b"first", bytes(LARGE))
        assert near._inbound.address != window.address


def net_address(server):
    host, port = server._listener.getsockname()
    return f"nixl://{host}:{port}"


def test_windows_of_channels_that_nobody_closed_stay_reserved():
    with link("nixl-shm") as net:
        server, near, _, _ = opened(net)
        near._lose("its peer is gone")
        server._channels.clear()
        window = near._inbound
    assert window._mapped in nixl_window._RESERVED


@pytest.mark.parametrize(
    ("kind", "head", "fault"),
    [
        (WRITTEN, PLACE.pack((4 << 20) - 64, 128), "128 bytes at 4194240 of a window of 4194304"),
        (WRITTEN, PLACE.pack(1, 64), "64 bytes at 1 of a window"),
        (WRITTEN, PLACE.pack(0, (1 << 20) + 1), "a body of 1048577 bytes; max_body_bytes is"),
        (WRITTEN, b"", "window|max_body_bytes"),
        (WANT, b"", "kind 2 and 0 bytes makes no sense"),
        (OFFER, PLACE.pack(0, 64) + b"card", "kind 3 and 20 bytes makes no sense"),
        (TAKEN, b"", "kind 4 and 0 bytes makes no sense"),
        (QUIET + 1, b"", "frame starts with"),
    ],
)
def test_frames_that_make_no_sense_lose_their_sender_only(kind, head, fault):
    with link("nixl-shm") as net:
        server, near, client, far = opened(net)
        (other, good) = net.open(server, net.transport(), net_address(server))
        far._say(kind, head)
        with pytest.raises(PeerLost, match=fault):
            next_message(server, near)
        good.send(b"still here")
        assert next_message(server, other) == (b"still here", b"")


@pytest.mark.parametrize("kind", [WRITTEN, QUIET])
def test_nothing_can_be_written_without_a_window(kind):
    with link("nixl-shm") as net:
        server, near, _, far = net.pair()
        far._say(kind, PLACE.pack(0, 64))
        with pytest.raises(PeerLost, match="without a window|makes no sense"):
            next_message(server, near)


def test_a_place_given_back_twice_loses_the_peer():
    with link("nixl-shm") as net:
        _, near, client, far = opened(net)
        near._say(TAKEN, b"")
        with pytest.raises(PeerLost, match="more of its window than was used"):
            next_message(client, far)


def test_where_nixl_does_not_reach_bodies_go_through_the_socket(monkeypatch, caplog):
    with link("nixl-shm") as net:
        server, near, client, far = net.pair()

        def unreachable(_, card):
            raise PeerLost("NIXL cannot reach it (no such net)")

        monkeypatch.setattr(nixl_agent.Agent, "meet", unreachable)
        for i in range(5):
            far.send(b"%d" % i, bytes([i]) * LARGE)
            assert next_message(server, near) == (b"%d" % i, bytes([i]) * LARGE)
            client.wait([far], 0)
        assert far.written_bytes == 0
    assert "bodies go through the socket: NIXL cannot reach it (no such net)" in caplog.text


@pytest.mark.parametrize("at", ["start", "later"])
def test_where_the_first_write_is_barred_bodies_go_through_the_socket(monkeypatch, caplog, at):
    def barred(*_):
        raise PeerLost("NIXL cannot write to it (not permitted)")

    with link("nixl-shm") as net:
        server, near, client, far = opened(net)
        if at == "start":
            monkeypatch.setattr(nixl_agent.Agent, "write", barred)
        else:
            monkeypatch.setattr(nixl_agent.Write, "is_done", barred)
        staging = far._window._staging
        bodies = [bytes([i]) * n for i, n in enumerate((LARGE, 10, LARGE, LARGE))]
        for i, body in enumerate(bodies):
            far.send(b"%d" % i, body)
        for i, body in enumerate(bodies):
            assert next_message(server, near, lambda: client.wait([far], 0)) == (b"%d" % i, body)
        assert far.written_bytes == far.unsent_bytes == 0
        assert staging._mapped in nixl_window._RESERVED
        window = near._inbound
        far.close()
        with pytest.raises(PeerLost):
            next_message(server, near)
        near.close()
        assert window._mapped in nixl_window._RESERVED
    assert caplog.text.count("bodies go through the socket: NIXL cannot write to it (not p") == 1


def test_where_a_later_write_fails_the_peer_is_lost(monkeypatch):
    def barred(*_):
        raise PeerLost("NIXL cannot write to it (disconnected)")

    with link("nixl-shm") as net:
        server, near, client, far = opened(net)
        far.send(b"works", bytes(LARGE))
        assert next_message(server, near, lambda: client.wait([far], 0)) == (b"works", bytes(LARGE))
        monkeypatch.setattr(nixl_agent.Agent, "write", barred)
        near.send(b"said before")
        with pytest.raises(PeerLost, match="disconnected"):
            far.send(b"fails", bytes(LARGE))
        assert next_message(client, far) == (b"said before", b"")
