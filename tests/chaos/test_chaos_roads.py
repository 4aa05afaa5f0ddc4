"""The relay carries frames both ways; a cut holds them back and closes nothing."""

import os
import threading
import time

import pytest

from engine.chaos import roads as module
from engine.chaos.roads import Relay, Roads

BODY = bytes(range(256)) * 300
ABOVE = 1 << 30
"""stands for the supervisor of the other instance"""


@pytest.fixture
def relay(tmp_path, monkeypatch):
    homes = iter([ABOVE, os.getpid()])  # who listens, then who dials
    monkeypatch.setattr(module, "_home_of", lambda _sock: next(homes))
    serving = Relay(tmp_path / "office")
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            serving.turn(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    yield serving
    ended.set()
    thread.join()
    serving.close()


def pair(tmp_path):
    config = Roads.Config(office=str(tmp_path / "office"))
    pool, step = Roads(config), Roads(config)
    address = pool.listen()
    found = []

    def accept():
        while not found:
            found.extend(pool.accept())
            time.sleep(0.001)

    thread = threading.Thread(target=accept)
    thread.start()
    near = step.connect(address, 5.0)
    near.send(b"hello", BODY)
    thread.join(10)
    return pool, step, near, found[0]


def hear(transport, channel, timeout_s):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        transport.wait([channel], 0.01)
        got = channel.receive()
        if got is not None:
            return got[0], bytes(got[1])
    return None


def test_frames_go_both_ways_and_wait_while_the_road_is_cut(relay, tmp_path):
    pool, step, near, far = pair(tmp_path)
    assert hear(pool, far, 10) == (b"hello", BODY)
    far.send(b"welcome", BODY)
    assert hear(step, near, 10) == (b"welcome", BODY)
    relay.cut = {ABOVE}
    time.sleep(0.1)
    near.send(b"lost?", BODY)
    far.send(b"lost as well?")
    assert hear(pool, far, 0.3) is None
    assert hear(step, near, 0.3) is None
    relay.cut = set()
    assert hear(pool, far, 10) == (b"lost?", BODY)
    assert hear(step, near, 10) == (b"lost as well?", b"")
    step.close()
    pool.close()


def test_a_cut_leaves_an_instances_own_road_alone(relay):
    relay.cut = {7}
    assert relay.is_cut((7, 8))
    assert relay.is_cut((8, 7))
    assert not relay.is_cut((7, 7))
    assert not relay.is_cut((8, 9))
