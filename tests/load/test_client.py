"""What servers may send, in whatever pieces it comes: scripted byte for byte over a true socket."""

import asyncio
import json
from contextlib import suppress

import pytest

from engine.load.client import Client
from engine.load.options import Options
from engine.load.outcome import Outcome
from engine.load.run import Clock
from engine.load.sample import Sample
from engine.model.tokenizer import Tokenizer
from tests.launch.tiny_checkpoint import byte_tokenizer

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(body, end=b"\n\n"):
    return b"data: " + json.dumps(body).encode() + end


def text(content, **more):
    return event({"choices": [{"index": 0, "text": content, "finish_reason": None}], **more})


def delta(**fields):
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
DONE = b"data: [DONE]\n\n"


def ask(pieces, *, pause=True, headers=(), **options):
    """(outcome, request line and headers, body) of one request to a server that says ``pieces``."""

    async def go():
        heard, served = {}, asyncio.Event()

        async def serve(reader, writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(next(x for x in head.splitlines() if x.startswith("Content-Length"))[15:])
            heard["head"], heard["body"] = head, json.loads(await reader.readexactly(length))
            with suppress(ConnectionError):  # a client may know enough and go
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if pause:
                        await asyncio.sleep(0.01)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            served.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        clock = Clock()
        clock.start()
        outcome = Outcome(3)
        tokenizer = Tokenizer(byte_tokenizer(), None)
        chosen = Options(base_url=url, header=tuple(headers), **options)
        async with server, Client(chosen, "m", tokenizer, clock) as client:
            await client.send(Sample("abc", 3, 9), outcome)
            await served.wait()
        return outcome, heard

    outcome, heard = asyncio.run(go())
    return outcome, heard.get("head", ""), heard.get("body", {})


def test_chunks_with_content_are_timed_and_usage_counts_tokens():
    outcome, head, body = ask([OK, text("a"), text(""), text("bc"), text("d"), USAGE, DONE])
    assert outcome.completed
    assert outcome.text == "abcd"
    assert len(outcome.times) == 3
    assert len(outcome.itls) == 2
    assert 0 <= outcome.sent < outcome.times[0] < outcome.times[-1] <= outcome.ended
    assert (outcome.num_prompt, outcome.num_output) == (7, 9)
    assert head.startswith("POST /v1/completions ")
    assert body == {
        "model": "m",
        "prompt": "abc",
        "max_tokens": 9,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
def test_events_may_come_in_any_pieces(size):
    stream = text("a") + b": a comment\n\n" + text("b") + USAGE + DONE
    stream = stream.replace(b"\n\n", b"\r\n\r\n")
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    outcome, _, _ = ask([OK, *pieces], pause=False)
    assert outcome.completed
    assert outcome.text == "ab"
    assert outcome.num_output == 9


def test_without_usage_the_text_is_counted():
    outcome, _, _ = ask([OK, text("ab"), text("cde"), DONE])
    assert (outcome.num_prompt, outcome.num_output) == (3, 5)


def test_chats_count_reasoning_as_content_and_the_role_not():
    pieces = [OK, delta(role="assistant", content=""), delta(reasoning_content="x")]
    pieces += [delta(content="y"), USAGE, DONE]
    outcome, head, body = ask(pieces, backend="openai-chat", dataset_name="custom")
    assert outcome.text == "xy"
    assert len(outcome.times) == 2
    assert head.startswith("POST /v1/chat/completions ")
    assert body["messages"] == [{"role": "user", "content": "abc"}]
    assert body["max_completion_tokens"] == 9
    assert "ignore_eos" not in body


def test_an_answer_without_a_character_ends_when_it_is_seen_to():
    outcome, _, _ = ask([OK, text(""), text(""), USAGE, DONE])
    assert outcome.completed
    assert len(outcome.times) == 1


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], "HTTP 503: "),
        (
            [
                b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n",
                json.dumps({"error": {"message": "too long"}}).encode(),
            ],
            "HTTP 400: too long",
        ),
        ([OK, text("a"), event({"error": {"message": "lost"}}), DONE], "in the stream: .*lost"),
        ([OK, text("a"), b"data: {nonsense\n\n", DONE], "an event that is no chunk"),
        ([OK, DONE], "the stream ended without a chunk"),
        ([], "ServerDisconnectedError"),
        (
            [OK.replace(b"Connection: close", b"Content-Length: 9999"), text("a")],
            "ClientPayloadError",
        ),
    ],
)
def test_what_fails_is_noted(pieces, said):
    outcome, _, _ = ask(pieces)
    assert not outcome.completed
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(outcome.error)


def test_the_key_of_the_environment_is_sent_unless_a_header_says_another(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    assert "Authorization: Bearer sesame\r\n" in ask([OK, DONE])[1]
    head = ask([OK, DONE], headers=["Authorization=Basic x", "x-tenant=a=b"])[1]
    assert "Authorization: Basic x\r\n" in head
    assert "x-tenant: a=b\r\n" in head
    assert "sesame" not in head


def test_extra_body_and_sampling_go_along():
    extra = '{"temperature": 0.5, "priority": 3}'
    body = ask([OK, DONE], top_p=0.9, top_k=5, extra_body=extra)[2]
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 5)
    assert body["priority"] == 3
