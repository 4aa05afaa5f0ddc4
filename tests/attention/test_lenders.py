"""Protects the step from frozen pools: a channel is opened beside it, and nothing said is lost."""

import threading

import pytest

from engine.attention.lenders import MAX_UNSAID, Lenders
from engine.comm.base import Channel, Transport
from engine.errors import PeerLost
from engine.protocol import TO_POOL, VERSION, Hello, Release, Renew

HELLO = Hello(VERSION, "test", 0, 1, "rows")


class Line(Channel):
    """Keeps what is sent; never has anything to say."""

    peer = "a pool"
    max_body_bytes = 1 << 20
    unsent_bytes = 0

    def __init__(self):
        self.said, self.closed = [], threading.Event()

    def send(self, head, *body):
        self.said.append(TO_POOL(head))

    def receive(self):
        return None

    def close(self):
        self.closed.set()


class Frozen(Transport):
    """Its peers answer when the test says so, with a line or with a refusal."""

    def __init__(self):
        self.thaws = threading.Event()
        self.line = Line()
        self.refusal = ""

    def connect(self, address, timeout_s):
        assert self.thaws.wait(30)
        if self.refusal:
            raise PeerLost(self.refusal)
        return self.line

    def wait(self, channels, timeout_s, also=()):
        return []

    def listen(self):
        raise NotImplementedError

    def accept(self):
        return []

    def close(self):
        pass


@pytest.fixture
def frozen():
    transport = Frozen()
    yield transport
    transport.thaws.set()
    for thread in threading.enumerate():
        if thread.name == "dial":
            thread.join(30)


@pytest.fixture
def lenders(frozen):
    return Lenders(frozen, own=HELLO, debtor=HELLO)


def thaw(frozen, lenders):
    frozen.thaws.set()
    while not (lenders.get(1) or lenders.lost):
        lenders.pump(0.0)


def test_what_is_said_to_a_frozen_pool_comes_behind_the_greeting_in_order(frozen, lenders):
    lenders.connect(1, "somewhere", 30.0)
    assert lenders.get(1) is None
    assert lenders.send(1, Renew([1]))
    lenders.connect(1, "somewhere", 30.0)  # known already
    assert lenders.send(1, Release(2))
    thaw(frozen, lenders)
    assert frozen.line.said == [HELLO, Renew([1]), Release(2)]
    assert not lenders.lost


def test_a_dial_that_fails_late_is_a_lost_pool(frozen, lenders):
    frozen.refusal = "it refuses"
    lenders.connect(1, "somewhere", 30.0)
    assert lenders.send(1, Renew([1]))
    thaw(frozen, lenders)
    assert lenders.lost == {1: "it refuses"}
    assert not lenders.send(1, Renew([1]))


def test_one_that_fails_at_once_says_so_at_once(frozen, lenders):
    frozen.refusal = "it refuses"
    frozen.thaws.set()
    with pytest.raises(PeerLost, match="it refuses"):
        lenders.connect(1, "somewhere", 30.0, patience_s=30.0)
    assert not lenders.send(1, Renew([1]))


def test_who_was_dropped_meanwhile_is_hung_up_on(frozen, lenders):
    lenders.connect(1, "somewhere", 30.0)
    lenders.drop(1, "not wanted")
    assert lenders.lost == {1: "not wanted"}
    frozen.thaws.set()
    assert frozen.line.closed.wait(30)
    assert frozen.line.said == []
    assert lenders.get(1) is None


def test_a_pool_that_never_answers_does_not_fill_the_memory(frozen, lenders):
    lenders.connect(1, "somewhere", 30.0)
    sent = [lenders.send(1, Renew([n])) for n in range(MAX_UNSAID + 1)]
    assert sent == [True] * MAX_UNSAID + [False]
    assert 1 in lenders.lost
