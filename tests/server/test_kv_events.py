"""KV events of a true server, decoded from the bare bytes by a subscriber of its own."""

import struct

import msgspec
import pytest
import zmq
from served import BLOCK_TOKENS, Server, free_ports, ids_of, make_chatting_checkpoint

PROMPT = ids_of("borrowed " * 20)


@pytest.fixture(scope="module")
def ports():
    return free_ports(4)


@pytest.fixture(scope="module")
def server(tmp_path_factory, ports):
    """Two instances; each pool holds 192 tokens."""
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("served") / "model")
    with Server(
        model,
        2,
        f"kv_events.endpoint=tcp://127.0.0.1:{ports}",
        f"kv_events.replay_endpoint=tcp://127.0.0.1:{ports + 2}",
        "kv_events.topic=kv",
    ) as server:
        yield server
    assert "Traceback" not in server.said


def replay(context, port, first):
    """(number, batch) of all that is kept from number ``first`` on."""
    found = []
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send_multipart([b"", struct.pack(">q", first)])
        while True:
            assert socket.poll(20_000), "no replay"
            empty, number, data = socket.recv_multipart()
            assert empty == b""
            if struct.unpack(">q", number) == (-1,):
                assert data == b""
                return found
            found.append((*struct.unpack(">q", number), msgspec.msgpack.decode(data)))


def test_a_subscriber_hears_what_is_stored_and_lent_and_catches_up(server, ports):
    context = zmq.Context()
    sockets = [context.socket(zmq.SUB) for _ in range(2)]
    for instance, socket in enumerate(sockets):
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{ports + instance}")
        socket.subscribe("kv")
    answer = server.openai.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=40, temperature=0
    )
    assert answer.usage.completion_tokens == 40
    server.wait_until(lambda: server.metric("vllm:request_decode_time_seconds_count") == 1)

    heard = {}

    def is_all_told():
        """Steps publish a moment later: also that what was lent has come back."""
        heard.update({one: replay(context, ports + 2 + one, 0) for one in range(2)})
        events = [event for kept in heard.values() for _, batch in kept for event in batch[1]]
        lent = [event["type"] for event in events if event.get("locality") == "REMOTE"]
        return lent and lent.count("BlockStored") == lent.count("BlockRemoved")

    server.wait_until(is_all_told)
    for instance, kept in heard.items():
        assert [number for number, _ in kept] == list(range(len(kept)))
        for _, (ts, events, rank) in kept:
            assert ts > 1.7e9
            assert rank == instance
            assert all(event["type"] in KINDS for event in events)
        assert kept[0][1][1][0] == {"type": "AllBlocksCleared"}
    owner = max(heard, key=lambda one: len(heard[one]))
    events = [event for _, batch in heard[owner] for event in batch[1]]

    # what was published is what is replayed, and a gap is filled from where it begins
    live = []
    while sockets[owner].poll(500):
        topic, number, data = sockets[owner].recv_multipart()
        assert topic == b"kv"
        live.append((*struct.unpack(">Q", number), msgspec.msgpack.decode(data)))
    assert live
    first, missed = live[0][0], live[-1][0] - 1
    assert live == heard[owner][first : first + len(live)]
    again = replay(context, ports + 2 + owner, missed)
    assert again[: len(heard[owner]) - missed] == heard[owner][missed:]

    stored = [event for event in events if event["type"] == "BlockStored"]
    local = [event for event in stored if event["locality"] == "LOCAL"]
    tokens, parent = [], None
    for event in local:
        assert event["parent_block_hash"] == parent
        assert event["block_size"] == BLOCK_TOKENS == len(event["token_ids"])
        assert event["medium"] == "CPU"
        [parent] = event["block_hashes"]
        tokens += event["token_ids"]
    assert tokens[: len(PROMPT)] == PROMPT
    assert len(tokens) == (len(PROMPT) + 40 - 1) // BLOCK_TOKENS * BLOCK_TOKENS

    remote = [event for event in stored if event["locality"] == "REMOTE"]
    assert remote
    assert {event["ownership"] for event in remote} == {f"instance-{1 - owner}"}
    known = {event["block_hashes"][0]: event for event in local}
    for event in remote:
        there = known[event["block_hashes"][0]]
        for field in ("token_ids", "parent_block_hash", "block_size"):
            assert event[field] == there[field]
    removed = [event for event in events if event["type"] == "BlockRemoved"]
    lent_back = [event for event in removed if event["locality"] == "REMOTE"]
    assert sorted(event["block_hashes"] for event in lent_back) == sorted(
        event["block_hashes"] for event in remote
    )
    for socket in sockets:
        socket.close()
    context.term()


KINDS = {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
