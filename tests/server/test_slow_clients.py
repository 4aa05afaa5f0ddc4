"""Who sends too slowly is not waited for; who waits for an answer is."""

import asyncio
import socket
import threading
import time

import pytest

from engine.server.body_limit import BodyLimit
from engine.server.http_server import MAX_HEAD_BYTES, HttpServer

IDLE_S = 0.5


async def patient(scope, receive, send):
    """Reads the body, answers late."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await asyncio.sleep(3 * IDLE_S)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port():
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(BodyLimit(patient, 100, IDLE_S), idle_s=IDLE_S)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(30)


def talk(port, *pieces):
    """What comes until the server closes, or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        for piece in pieces:
            client.sendall(piece)
        said = b""
        while not said.endswith(b"ok"):
            try:
                piece = client.recv(4096)
            except ConnectionResetError:
                piece = b""
            if not piece:
                break
            said += piece
        return said


@pytest.mark.parametrize("head", [b"", b"POST / HTTP/1.1\r\nHost: me\r\n"])
def test_half_a_head_is_not_waited_for(port, head):
    assert talk(port, head) == b""


def test_an_answer_may_take_longer(port):
    said = talk(port, b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\n", b"hi")
    assert said.startswith(b"HTTP/1.1 200")


def test_a_connection_that_says_nothing_more_is_closed(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n")
        said = b""
        while piece := client.recv(4096):
            said += piece
        assert said.endswith(b"ok")


def test_a_head_that_is_too_long_is_refused(port):
    said = talk(port, b"GET / HTTP/1.1\r\nX: " + b"x" * (2 * MAX_HEAD_BYTES))
    assert said.startswith(b"HTTP/1.1 400") or said == b""


async def endless(scope, receive, send):
    """Tells without end, to whoever listens or not."""
    if scope["type"] == "lifespan":
        await patient(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    told = asyncio.create_task(tell(send))
    while (await receive())["type"] != "http.disconnect":
        pass
    told.cancel()


async def tell(send):
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})


def test_who_does_not_listen_does_not_keep_a_server_from_its_end():
    listener = socket.create_server(("127.0.0.1", 0))
    server, said = HttpServer(endless, idle_s=IDLE_S), []

    async def serve():
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.server_state.tasks:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # all that lies between the two of them is full
        server.stop()
        await asyncio.wait_for(running, 20)
        said.append("over")

    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n")
        asyncio.run(serve())
    assert said == ["over"]


def test_half_a_body_is_answered_408():
    """Through the routes, as an error object."""
    from instant import build

    messages = []

    async def receive():
        if not messages:
            messages.append(1)
            return {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.sleep(3600)
        return {}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"9")],
    }
    asyncio.run(asyncio.wait_for(build(idle_s=IDLE_S)(scope, receive, send), 60))
    assert sent[0]["status"] == 408
    assert b"Nothing of the body came" in sent[1]["body"]
