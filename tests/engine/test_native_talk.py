"""Asks and answers within the native library: the bits of one instance, whatever comes between.

Real pools over shared memory, each in a thread of its own; a step that is driven by hand.
"""

import threading
import time

import pytest
import torch
from cluster_harness import prompt, tiny_checkpoint

from engine import build
from engine.attention import answer
from engine.attention.dist import DistAttention
from engine.attention.kernel_backend import NativeBackend
from engine.attention.lenders import Lenders
from engine.comm import frame
from engine.config import load
from engine.core import BlockRef, Plan, Span
from engine.model.native_llama import PROCESSOR, NativeLlama, processor_flags
from engine.protocol import VERSION, Ack, Begin, Granted, Hello, Renew, Reserve, Write

pytestmark = pytest.mark.skipif(
    not processor_flags() >= PROCESSOR, reason="needs AVX-512 with bfloat16 and 8-bit products"
)
TOKENS = 16
LENGTHS = (130, 70)
"""tokens of two sequences"""
LENT = ({0: 1, 1: 1, 2: 2, 4: 1, 5: 2}, {1: 2, 2: 2})
"""for each sequence: leaf -> holder"""


class Holder(threading.Thread):
    """A pool that serves until it is told to leave, or to rest."""

    def __init__(self, config, instance, shape, layout):
        super().__init__(daemon=True)
        self.instance = instance
        self.memory = build.build_pool(config, layout)
        transport = build.build_transport(config, self.memory)
        self.address = transport.listen()
        self.server, self.rmanager = build.build_pool_server(
            config,
            instance=instance,
            epoch=1,
            cluster="test",
            shape=shape,
            pool=self.memory,
            transport=transport,
        )
        self.leaving = threading.Event()
        self.resting = threading.Event()
        self.rests = threading.Event()
        self.start()

    def run(self):
        while not self.leaving.is_set():
            self.server.serve_once(0.01)
            while self.resting.is_set() and not self.leaving.is_set():
                self.rests.set()
                time.sleep(0.001)
        self.server.close()

    def rest(self):
        """From now on it does nothing, until ``resting`` is cleared."""
        self.rests.clear()
        self.resting.set()
        assert self.rests.wait(20)

    def leave(self):
        self.leaving.set()
        self.join(20)


class Step:
    """Prefills both sequences at home, lends some leaves, then decodes with them away."""

    def __init__(self, checkpoint, way="query", transport="shm", **attention):
        self.model = checkpoint.model
        assert type(self.model) is NativeLlama
        self.config = load(
            None,
            [
                "model.dtype=bfloat16",
                f"pool.block_tokens={TOKENS}",
                "pool.num_blocks=40",
                "pool.lending.keep_blocks=0",
                f"transport.name={transport}",
                "transport.options.max_body_bytes=16384",
                *(["transport.options.ring_bytes=172032"] if transport == "shm" else []),
            ],
        )
        shape = checkpoint.config.shape
        layout = build.layout_of(self.config, shape)
        self.own = Holder(self.config, 0, shape, layout)
        self.holders = {n: Holder(self.config, n, shape, layout) for n in (1, 2)}
        hello = Hello(VERSION, "test", 0, 1, layout.fingerprint)
        self.lenders = Lenders(build.build_transport(self.config), own=hello, debtor=hello)
        for holder in (self.own, *self.holders.values()):
            self.lenders.connect(holder.instance, holder.address, 10.0, 10.0)
        local = NativeBackend(
            NativeBackend.Config(), shape=shape, layout=layout, pool=self.own.memory
        )
        options = DistAttention.Config(way=way, **attention)
        self.backend = DistAttention(options, local=local, lenders=self.lenders)
        self.tables = [[BlockRef(0, 20 * n + leaf) for leaf in range(12)] for n in range(2)]
        self.number = 0

    def hear(self, kind, instance, count=1):
        heard = []
        while len(heard) < count:
            assert self.lenders.pump(10.0, [instance]), f"no {kind.__name__}"
            while self.lenders.inbox:
                message = self.lenders.inbox.popleft()[1]
                if isinstance(message, kind):
                    heard.append(message)
        return heard

    def lend(self, leaves=LENT):
        """Copies leaves to their holders; what lay here is overwritten."""
        layout, pool = self.own.memory.layout, self.own.memory
        for holder in self.holders:
            mine = [(n, leaf) for n in range(2) for leaf, to in leaves[n].items() if to == holder]
            self.lenders.send(holder, Reserve(1, len(mine), 60.0))
            (granted,) = self.hear(Granted, holder)
            for slot, (n, leaf) in enumerate(mine):
                here = self.tables[n][leaf].block
                data = bytes(pool.block(here))
                for at in range(0, len(data), 16384):
                    last = at + 16384 >= len(data)
                    write = Write(granted.loan, slot, at, last)
                    self.lenders.send(holder, write, data[at : at + 16384])
                self.hear(Ack, holder)
                pool.block(here)[:] = b"\xff" * layout.block_bytes
                block, generation = granted.blocks[slot], granted.generations[slot]
                self.tables[n][leaf] = BlockRef(holder, block, granted.loan, slot, generation)

    def run(self, rows):
        """Logits of the next step, ``rows`` [(sequence, first position, number of rows)]."""
        self.number += 1
        spans, ids = [], []
        for n, first, num in rows:
            table = tuple(self.tables[n][: (first + num - 1) // TOKENS + 1])
            spans.append(Span(n, len(ids), num, first, table, 1))
            ids += prompt(200, n)[first : first + num]
        self.backend.begin(Plan(self.number, tuple(ids), tuple(spans)))
        positions = torch.cat([torch.arange(first, first + num) for _, first, num in rows])
        logits = self.model.forward(
            torch.tensor(ids), positions, torch.arange(len(ids)), self.backend
        )
        return logits, self.backend.end()

    def prefill(self):
        self.run([(n, 0, length) for n, length in enumerate(LENGTHS)])

    def close(self):
        self.lenders.close()
        for holder in (self.own, *self.holders.values()):
            holder.leave()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "model"
    return tiny_checkpoint(path, "bfloat16", num_hidden_layers=5)


@pytest.fixture(params=["shm", "tcp"])
def step(request, checkpoint):
    step = Step(checkpoint, transport=request.param, wait_s=10.0)
    step.prefill()
    yield step
    step.close()


def decodes(number):
    return [(n, length + number, 1) for n, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def truth(checkpoint):
    """Logits of four decodes, and of a chunk behind them, with everything at home."""
    step = Step(checkpoint)
    step.prefill()
    told = [step.run(decodes(number))[0] for number in range(4)]
    told.append(step.run([(0, 134, 30), (1, 74, 1)])[0])
    step.close()
    return told


def test_the_bits_are_those_of_one_instance(step, truth):
    step.lend()
    for number in range(4):
        logits, poisoned = step.run(decodes(number))
        assert not poisoned
        assert torch.equal(logits, truth[number])
    # Nobody answers a prefill within the library: every layer's answers are Python's to get.
    logits, poisoned = step.run([(0, 134, 30), (1, 74, 1)])
    assert not poisoned
    assert torch.equal(logits, truth[4])


def test_going_on_with_the_same_tables_is_like_reading_them_anew(step, checkpoint):
    anew = Step(checkpoint, wait_s=10.0)
    anew.prefill()
    for number in range(6):
        if number == 3:  # other tables of the same length
            step.lend()
            anew.lend()
        anew.backend.forget_sequence(99)
        assert torch.equal(step.run(decodes(number))[0], anew.run(decodes(number))[0])
    anew.close()


def test_other_messages_may_come_between(step, truth):
    step.lend()
    for number in range(4):
        for holder in step.holders:
            for _ in range(3 * number):
                step.lenders.send(holder, Renew([1]))
        logits, poisoned = step.run(decodes(number))
        assert not poisoned
        assert torch.equal(logits, truth[number])


def test_layer_by_layer_it_is_the_same(step, truth, monkeypatch):
    step.lend()
    monkeypatch.setattr(step.backend, "native_step", lambda q_THD: None)
    assert torch.equal(step.run(decodes(0))[0], truth[0])
    monkeypatch.undo()
    assert torch.equal(step.run(decodes(1))[0], truth[1])


def test_most_layers_never_leave_the_library(step):
    """Where answers are slow all is right and nothing is fast; so look whether it is."""
    step.lend()
    for number in range(4):
        step.run(decodes(number))
    answered = step.holders[1].server._peers
    natives = [peer.asked._native for peer in answered.values() if peer.asked._native]
    assert natives
    assert all(native.is_done for native in natives)


def test_a_holder_that_sleeps_poisons_who_needed_it_and_nobody_else(checkpoint, truth):
    step = Step(checkpoint, wait_s=2.0, wait_per_key_s=0.0)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    step.holders[1].rest()
    logits, poisoned = step.run(decodes(0))
    assert poisoned == {0}
    assert torch.equal(logits[1], truth[0][1])
    assert logits.isfinite().all()
    step.holders[1].resting.clear()
    logits, poisoned = step.run(decodes(0))  # late answers of the lost step are passed over
    assert not poisoned
    assert torch.equal(logits, truth[0])
    step.close()


def test_a_holder_that_leaves_poisons_who_needed_it_and_nobody_else(checkpoint, truth):
    step = Step(checkpoint, wait_s=10.0)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    assert torch.equal(step.run(decodes(0))[0], truth[0])
    step.holders[1].leave()
    logits, poisoned = step.run(decodes(1))
    assert poisoned == {0}
    assert torch.equal(logits[1], truth[1][1])
    assert step.lenders.get(1) is None
    step.close()


def test_a_loan_that_has_ended_is_never_answered(step, truth, monkeypatch):
    monkeypatch.setattr(answer, "WHILE_S", 1e-4)  # the books are looked at often
    step.lend()
    assert torch.equal(step.run(decodes(0))[0], truth[0])
    holder = step.holders[1]
    (loan,) = holder.rmanager._lending.loans
    looks = iter(range(100))
    native = holder.server._native_call

    def look(peer):
        if next(looks) == 4:  # in the middle of a step
            lending = holder.rmanager._lending
            holder.server._perform(lending.release(loan, loan.standing_slots)[1])
        return native(peer)

    holder.server._native_call = look
    assert step.run(decodes(1))[1] == {0}
    assert next(looks) > 4
    assert loan.number in step.lenders.inbox.pop()[1].loans


def tampered(channel, tamper):
    """A ``send`` that puts on the socket what ``tamper`` makes of each frame."""

    def send(head, *body):
        start, parts, body_bytes = frame.pack(
            head,
            body,
            sequence=channel._stream.num_sent,
            max_body_bytes=channel.max_body_bytes,
            seal=channel._session.sends,
        )
        channel._stream.num_sent += 1
        tamper(channel._socket, bytearray(start + b"".join(parts) + bytes(-body_bytes % 64)))

    return send


def in_pieces(sock, whole):
    for at in range(0, len(whole), 700):
        sock.sendall(whole[at : at + 700])
        time.sleep(1e-4)


def with_a_wrong_tag(sock, whole):
    whole[frame.HEADER.size] ^= 1
    sock.sendall(whole)


@pytest.fixture
def over_tcp(checkpoint):
    """One side's library talks to the other side's Python, whose sends are tampered with."""
    step = Step(checkpoint, transport="tcp", wait_s=10.0)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    yield step
    step.close()


def only_python(step, who):
    """The channel by which it sends from Python: the step to holder 1, or holder 1 to the step."""
    if who == "step":
        step.backend.native_step = lambda q_THD: None
        return step.lenders.get(1).channel
    server = step.holders[1].server
    server._native_call = lambda peer: 0
    (peer,) = server._peers.values()
    return peer.channel


@pytest.mark.parametrize("who", ["step", "holder"])
def test_messages_in_pieces_are_like_whole_ones(over_tcp, truth, who):
    channel = only_python(over_tcp, who)
    channel.send = tampered(channel, in_pieces)
    logits, poisoned = over_tcp.run(decodes(0))
    assert not poisoned
    assert torch.equal(logits, truth[0])


@pytest.mark.parametrize("who", ["step", "holder"])
def test_a_wrong_tag_in_the_middle_of_a_step_poisons_who_needed_it(over_tcp, truth, who):
    channel = only_python(over_tcp, who)
    assert torch.equal(over_tcp.run(decodes(0))[0], truth[0])
    channel.send = tampered(channel, with_a_wrong_tag)
    logits, poisoned = over_tcp.run(decodes(1))
    assert poisoned == {0}
    assert torch.equal(logits[1], truth[1][1])
    assert over_tcp.lenders.get(1) is None


def test_who_talks_nonsense_in_the_middle_of_a_step_is_cut_off(step):
    step.lend()
    step.run(decodes(0))
    step.lenders.send(1, Begin(99, 1.0, [[]]))
    channel = step.lenders.get(1).channel
    channel.send(b"nonsense")
    deadline = time.monotonic() + 20
    while step.lenders.get(1):
        assert time.monotonic() < deadline
        step.lenders.pump(0.1, [1])
