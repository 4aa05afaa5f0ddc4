"""Processes are killed while answers are held to grammars: each is told whole, once, and valid."""

import json
import threading

import jsonschema
import pytest
from served import Server, Stream, httpx, make_chatting_checkpoint

SCHEMA = {
    "type": "array",
    "minItems": 25,
    "maxItems": 25,
    "items": {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["n"],
        "additionalProperties": False,
    },
}
NUM_CLIENTS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(
        tmp_path_factory.mktemp("faults") / "model", initializer_range=0.05
    )
    server = Server(model, 2, "pool.num_blocks=400")
    try:
        server.wait_until(server.ready)
        yield server
    finally:
        server.stop()


def body(client, **more):
    form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": SCHEMA}}
    sampling = {"temperature": 1.0, "seed": client, "max_tokens": 900}
    chat = [{"role": "user", "content": f"client {client}"}]
    return {"model": "tiny", "messages": chat, "response_format": form} | sampling | more


class Listener(threading.Thread):
    def __init__(self, server, client):
        super().__init__()
        self.server, self.client = server, client
        self.stream, self.speaking = Stream(), threading.Event()
        self.start()

    def run(self):
        with (
            httpx.Client(base_url=self.server.url, timeout=60) as http,
            http.stream(
                "POST", "/v1/chat/completions", json=body(self.client, stream=True)
            ) as answer,
        ):
            for _ in self.stream.read(answer.iter_lines()):
                if self.stream.num_events == 20:
                    self.speaking.set()


def test_answers_go_on_in_their_grammars_when_a_step_is_killed(server):
    whole = [
        server.http.post("/v1/chat/completions", json=body(client)).json()["choices"][0]
        for client in range(NUM_CLIENTS)
    ]
    listeners = [Listener(server, client) for client in range(NUM_CLIENTS)]
    for listener in listeners:
        assert listener.speaking.wait(60), server.errors()
    server.kill(server.pid_of("step 0"))
    for listener, choice in zip(listeners, whole, strict=True):
        listener.join(120)
        assert listener.stream.done, server.errors()
        assert listener.stream.text == choice["message"]["content"]
        assert listener.stream.finish_reason == choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(listener.stream.text), SCHEMA)
    assert "Traceback" not in server.errors()
