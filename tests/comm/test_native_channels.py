"""What the native library says and hears on a channel, and that Python goes on where it left off.

An ask and its answer without a model: the library "answers" with what lies in its memory.
"""

import ctypes
import os
import socket
import threading

import pytest
from comm_harness import link, next_message, until

from engine.attention.native_calls import AnswersCall, Heads, SliceAnswer
from engine.comm import frame
from engine.comm.auth import Seal
from engine.comm.base import NOTHING, WORKED
from engine.comm.polling import READ
from engine.comm.shm_channel import ShmChannel
from engine.comm.watched import Watching
from engine.errors import PeerLost
from engine.native.library import load
from engine.protocol import Answer, Ask

HEADS, DIM = 2, 64
ROW_BYTES = HEADS * DIM * 4
QUERIES = os.urandom(3 * ROW_BYTES)
FLOAT32 = 0


class Answers:
    """An AnswersCall for so many layers of one slice of three rows, whose answers have many."""

    def __init__(self, channel, layers=4, node_rows=5):
        self.channel = channel
        rows = node_rows * HEADS
        self.out, self.lse = (
            (ctypes.c_float * (rows * DIM))(),
            (ctypes.c_float * rows)(*range(rows)),
        )
        self.slice = SliceAnswer(num_queries=3, num_node_rows=node_rows)
        attend = self.slice.attend
        attend.out, attend.lse = ctypes.addressof(self.out), ctypes.addressof(self.lse)
        attend.q_kind = attend.kv_kind = FLOAT32
        attend.heads = attend.kv_heads = HEADS
        attend.dim, attend.tokens, attend.num_threads = DIM, 16, 1
        self.asks = Heads(Ask(7, layer, 0) for layer in range(layers))
        self.answers = Heads(Answer(7, layer, 0) for layer in range(layers))
        self.body = bytes(self.out) + bytes(self.lse)
        self.call = AnswersCall(
            asks=self.asks.address,
            answers=self.answers.address,
            slices=ctypes.addressof(self.slice),
            num_slices=1,
            count=layers,
        )

    def __call__(self):
        """Answers what is there and comes next; how many, or None while it may not."""
        self.call.channel = self.channel.native()
        return load().lk_answer(ctypes.byref(self.call)) if self.call.channel else None

    def until(self, wanted):
        """Answers until so many have been answered in all."""
        until(lambda: self() is not None and self.call.next == wanted)

    def watch(self, most_s):
        """Watches the channel's words and its socket, and nothing else; does not spin."""
        self.call.channel = self.channel.native()
        words = self.channel.watched() if isinstance(self.channel, ShmChannel) else []
        addresses = tuple(address for address, _ in words)
        watching = Watching(addresses, {self.channel.fileno(): READ}, num_bells=len(words))
        watching.seen(tuple(value for _, value in words))
        watching.watched.most_ns = int(1e9 * most_s)
        function = load().lk_answer_while_watching
        function.restype = ctypes.c_int64
        calls = (ctypes.c_void_p * 1)(ctypes.addressof(self.call))
        most_ns = ctypes.c_int64(int(60e9))
        return function(calls, 1, ctypes.byref(watching.watched), most_ns)


@pytest.fixture(params=["shm", "tcp"])
def ends(request):
    with link(request.param) as net:
        yield net.pair()


@pytest.fixture
def tcp():
    with link("tcp") as net:
        yield net.pair()


def raw_frame(channel, head, body, ahead=0):
    """What the channel would send as its next message, or as one behind it."""
    start, parts, body_bytes = frame.pack(
        head,
        [body],
        sequence=channel._stream.num_sent + ahead,
        max_body_bytes=1 << 20,
        seal=channel._session.sends,
    )
    return bytearray(start + b"".join(parts) + bytes(-body_bytes % frame.ALIGN_BYTES))


def ask(layer):
    return Heads([Ask(7, layer, 0)]).encoded[0]


def answer(layer):
    return Heads([Answer(7, layer, 0)]).encoded[0]


def test_both_may_speak_in_turn(ends):
    server, near, client, far = ends
    answers = Answers(near)
    assert answers() == 0
    for layer in range(4):
        far.send(ask(layer), QUERIES)
        if layer % 2:
            near.send(b"by the way")
        answers.until(layer + 1)
        if layer % 2:
            assert next_message(client, far) == (b"by the way", b"")
        assert next_message(client, far) == (answer(layer), answers.body)
    far.send(b"and now", b"to Python")
    assert answers() == 0
    assert next_message(server, near) == (b"and now", b"to Python")


def test_several_that_lie_there_are_answered_at_once(ends):
    server, near, client, far = ends
    answers = Answers(near)
    for layer in range(3):
        far.send(ask(layer), QUERIES)
    answers.until(3)
    for layer in range(3):
        assert next_message(client, far) == (answer(layer), answers.body)


@pytest.mark.parametrize(
    ("head", "body"), [(b"Renew", b""), (ask(1), QUERIES), (ask(0), QUERIES[:-1]), (ask(0), b"")]
)
def test_what_is_not_due_is_left_to_python(ends, head, body):
    server, near, client, far = ends
    answers = Answers(near)
    far.send(head, body)
    far.send(ask(0), QUERIES)
    until(lambda: server.wait([near], 0.01))
    assert answers() == 0
    assert next_message(server, near) == (head, body)
    answers.until(1)
    assert next_message(client, far) == (answer(0), answers.body)


def test_a_message_may_come_in_pieces(tcp):
    server, near, client, far = tcp
    answers = Answers(near)
    whole = raw_frame(far, ask(0), QUERIES)
    far._stream.num_sent += 1
    for at in range(0, len(whole), 50):
        assert answers() == 0
        far._socket.sendall(whole[at : at + 50])
    answers.until(1)
    assert next_message(client, far) == (answer(0), answers.body)


@pytest.mark.parametrize("cut", [10, 24, 30, 64, 200])
def test_python_goes_on_with_what_the_library_began(tcp, cut):
    server, near, _, far = tcp
    answers = Answers(near)
    whole = raw_frame(far, ask(0), QUERIES)
    far._socket.sendall(whole[:cut])
    until(lambda: answers() == 0 and near._stream.end == cut)
    assert near.receive() is None
    far._socket.sendall(whole[cut:])
    assert next_message(server, near) == (ask(0), QUERIES)
    assert answers.call.next == 0


@pytest.mark.parametrize("tamper", ["tag", "head", "number", "key", "repeated"])
def test_a_message_of_somebody_else_is_never_answered(tcp, tamper):
    server, near, _, far = tcp
    answers = Answers(near)
    if tamper == "key":
        far._session.sends = Seal(b"", b"other")
    whole = raw_frame(far, ask(0), QUERIES, ahead=tamper == "number")
    if tamper == "tag":
        whole[frame.HEADER.size] ^= 1
    if tamper == "head":  # as the library expects it, under the tag of another
        other = raw_frame(far, ask(1), QUERIES)
        whole[frame.HEADER.size : frame.HEAD_START] = other[frame.HEADER.size : frame.HEAD_START]
    if tamper == "repeated":
        far._socket.sendall(whole)
        answers.until(1)
        answers.call.next = 0
    far._socket.sendall(whole)
    until(lambda: answers() or near._stream.end == len(whole))
    assert answers.call.next == 0
    with pytest.raises(PeerLost, match="tag is wrong|came where"):
        next_message(server, near)
    assert answers() is None


def test_what_was_asked_before_a_close_is_heard_and_then_the_peer_is_lost(ends):
    server, near, client, far = ends
    answers = Answers(near)
    far.send(ask(0), QUERIES)
    far.close()
    until(lambda: answers() is None or answers.call.next == 1)
    with pytest.raises(PeerLost, match="closed by the peer|reset"):
        next_message(server, near)
    assert answers() is None


def test_what_a_full_socket_does_not_take_python_sends_later(tcp):
    server, near, client, far = tcp
    near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    answers = Answers(near, node_rows=1900)
    far.send(ask(0), QUERIES)
    answers.until(1)
    assert answers() is None
    assert near._stream.out_end > near._stream.out_start > 0
    assert near.unsent_bytes
    near.send(b"behind it")
    got = [next_message(client, far, lambda: server.wait([near], 0)) for _ in range(2)]
    assert got == [(answer(0), answers.body), (b"behind it", b"")]
    assert not near.unsent_bytes


def test_frames_are_taken_wherever_they_lie(tcp):
    """More comes at once than is answered, again and again, until the memory's end is near."""
    server, near, client, far = tcp
    answers, sent = Answers(near, layers=2000, node_rows=1), 0
    for _ in range(20):
        while sent < 2000 and not far.unsent_bytes:
            far.send(ask(sent), QUERIES)
            sent += 1
        client.wait([far], 0)
        answers()
        while far.receive():
            pass
    assert answers.call.next > 100


def test_who_sleeps_while_watching_is_woken_and_answers(ends):
    _, near, client, far = ends
    answers = Answers(near)
    heard = []

    def talk():
        far.send(ask(0), QUERIES)
        heard.append(next_message(client, far))
        far.send(b"else")

    debtor = threading.Timer(0.05, talk)
    debtor.start()
    assert answers.watch(10.0) == 0
    debtor.join()
    assert heard == [(answer(0), answers.body)]


def test_watching_ends_when_something_else_comes(ends):
    server, near, client, far = ends
    answers = Answers(near)
    assert answers.watch(0.001) == NOTHING
    far.send(ask(0), QUERIES)
    assert answers.watch(0.01) == WORKED
    assert next_message(client, far) == (answer(0), answers.body)
    far.send(ask(1), QUERIES)
    far.send(b"else")
    assert answers.watch(10.0) == 0
    assert next_message(server, near) == (b"else", b"")
    for layer in (2, 3):
        far.send(ask(layer), QUERIES)
    answers.until(4)
    far.send(b"the next step")  # nobody asks this one any more: it is no part of it
    assert answers.watch(10.0) == 0
    far.close()
    assert next_message(server, near) == (b"the next step", b"")
    assert answers.watch(10.0) >= 0  # a word is silent about the end: its bell is not
