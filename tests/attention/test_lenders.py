"""Protects the step from frozen pools: a channel is opened beside it, and nothing said is lost."""

import threading
import weakref

import pytest

from engine import gpu_memory
from engine.attention.lenders import MAX_UNSAID, Lenders
from engine.attention.mapped import Mapped
from engine.comm.base import Channel, Transport
from engine.core import BlockRef
from engine.errors import ConfigError, PeerLost
from engine.protocol import TO_POOL, VERSION, GpuMemory, Hello, Release, Renew, Welcome

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


GPU = GpuMemory("GPU-1", b"handle", 1 << 12, 512, b"counter", 3)


class OnAGpu:
    """Stands in for what gpu_memory opens."""

    def __init__(self, memory, device):
        self.asked = memory, device

    def data_ptr(self):
        return 4096


def welcome(lenders, frozen, *, instance=1, gpu=None, region=b"\7" + bytes(63)):
    """The lender, when it has said where its four blocks lie."""
    frozen.line.region = memoryview(region)
    frozen.thaws.set()
    lenders.connect(instance, "somewhere", 30.0, patience_s=30.0)
    lenders._sort(lenders.get(instance), Welcome(instance, 1, "kernel", 4, gpu), memoryview(b""))
    return lenders.get(instance)


def test_a_gpus_memory_is_opened_once_and_let_go_with_its_holder(frozen, lenders, monkeypatch):
    monkeypatch.setattr(gpu_memory, "opened", OnAGpu)
    lenders.maps = "cuda:1"
    lender = welcome(lenders, frozen, gpu=GPU)
    assert lender.memory.asked == (GPU, "cuda:1")
    assert (lender.blocks_address, lender.generations.tolist()) == (4096, [7, 0, 0, 0])
    mapped = Mapped(lenders, 512, "cuda:1")
    ref = BlockRef(1, 2, 5, 0, 0)
    assert mapped.address(9, ref) == 4096 + 2 * 512
    let_go = weakref.ref(lender.memory)
    lenders.drop(1, "it is dead")
    assert let_go(), "this step reads it still"
    assert mapped.changed(1) == {9}
    mapped.begin()
    assert not let_go()


def test_whether_a_gpus_holder_lives_is_asked_before_its_blocks_are_believed(
    frozen, lenders, monkeypatch
):
    monkeypatch.setattr(gpu_memory, "opened", OnAGpu)
    mapped = Mapped(lenders, 512, "cuda")
    welcome(lenders, frozen, gpu=GPU)
    mapped.address(9, BlockRef(1, 2, 5, 0, 0))
    assert mapped.changed(1) == frozenset()

    def gone(channels, timeout_s, also=()):
        raise_lost = PeerLost("it is dead")
        frozen.line.receive = lambda: (_ for _ in ()).throw(raise_lost)
        return channels

    frozen.wait = gone
    assert mapped.changed(2) == {9}
    assert lenders.lost == {1: "it is dead"}


@pytest.mark.parametrize(("maps", "gpu"), [("cpu", GPU), ("cuda", None), ("", None), ("", GPU)])
def test_memory_that_the_own_kernels_cannot_reach_is_not_mapped(
    frozen, lenders, monkeypatch, maps, gpu
):
    monkeypatch.setattr(gpu_memory, "opened", OnAGpu)
    lenders.maps = maps
    assert welcome(lenders, frozen, gpu=gpu).generations is None
    assert not lenders.are_mapped
    assert Mapped(lenders, 512, maps).address(9, BlockRef(1, 2, 5, 0, 0)) == 0


def test_what_this_process_shows_it_does_not_open(frozen, lenders, monkeypatch):
    monkeypatch.delattr(gpu_memory, "opened")
    lenders.maps = "cuda"
    assert welcome(lenders, frozen, instance=0, gpu=GPU).memory is None
    assert lenders.are_mapped, "so reading where it lies costs nothing more"


def test_a_gpu_out_of_reach_is_told_and_asked(frozen, lenders, caplog):
    lenders.maps = "cuda"

    def refuse(memory, device):
        raise ConfigError("cuda:0 has no access to the memory of cuda:1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_memory, "opened", refuse)
        lender = welcome(lenders, frozen, gpu=GPU)
    assert lender.generations is None
    said = "instance 1 is asked, not read: cuda:0 has no access to the memory of cuda:1"
    assert caplog.messages == [said]
