"""SIGTERM to true servers: what was accepted is answered, or told that it is not, and status 0."""

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from served import (
    Command,
    Server,
    Stream,
    free_ports,
    httpx,
    make_chatting_checkpoint,
    steps_of,
    text_of,
)
from tiny_models import reference_tokens

PROMPT = [(5 * token + 1) % 256 for token in range(220)]
NUM_TOKENS = 150
"""together more than one of the cluster's pools of 256 tokens: some of it is lent"""
SHORT = PROMPT[:30]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_chatting_checkpoint(tmp_path_factory.mktemp("shutdown") / "model")


def body(prompt, **options):
    options = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True} | options
    return {"model": "tiny", "prompt": prompt, **options}


def text(model, prompt):
    return text_of(reference_tokens(model, prompt, NUM_TOKENS))


class Talk(threading.Thread):
    """A stream, read to its end."""

    def __init__(self, url, prompt):
        super().__init__()
        self.url, self.prompt, self.stream = url, prompt, Stream()
        self.speaking = threading.Event()
        self.start()

    def run(self):
        with httpx.Client(base_url=self.url, timeout=120) as http:
            request = body(self.prompt, stream=True)
            with http.stream("POST", "/v1/completions", json=request) as answer:
                for _ in self.stream.read(answer.iter_lines()):
                    if self.stream.num_events >= 3:
                        self.speaking.set()


class Alone:
    """``lendkv serve`` with one instance, without torchrun."""

    def __init__(self, model, *overrides):
        self.port = free_ports(2)
        self.command = Command(
            "serve",
            "instances=1",
            f"model.path={model}",
            "model.dtype=float32",
            "pool.num_blocks=160",
            "pool.block_tokens=8",
            "scheduler.max_step_tokens=32",
            "serve.model_name=tiny",
            f"serve.port={self.port}",
            *overrides,
            LENDKV_KEY="a key that all of them know",
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def wait_ready(self, num_instances=1):
        self.command.wait_until(lambda: self.num_ready() == num_instances)

    def num_ready(self):
        with suppress(httpx.TransportError):
            return sum(card["ready"] for card in self.http.get("/health").json()["instances"])
        return 0

    def is_closing(self):
        return self.http.get("/ready").status_code == 503

    def finish(self, status=0):
        self.http.close()
        done = self.command.finish()
        assert done.status == status, done.err
        assert "Traceback" not in done.err


@contextmanager
def frozen(pids):
    """The steps stand still: what runs does not end by itself."""
    stopped = steps_of(pids)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)


def test_a_cluster_ends_what_it_has_and_takes_nothing_new(model):
    server = Server(model, 2, "pool.num_blocks=32")
    try:
        server.wait_until(server.ready)
        talk = Talk(server.url, PROMPT)
        assert talk.speaking.wait(60)
        with frozen(server.pids()):
            server.process.terminate()
            server.wait_until(lambda: server.http.get("/ready").status_code == 503)
            refused = server.http.post("/v1/completions", json=body(SHORT))
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) >= 1
            assert server.http.get("/health").status_code == 200
        talk.join(60)
        assert talk.stream.done
        assert talk.stream.text == text(model, PROMPT)
        server.process.wait(60)
        assert "/engine/" not in server.errors()
    finally:
        server.stop()


def test_what_does_not_end_in_time_is_told_so(model):
    alone = Alone(model, "serve.drain_s=1")
    alone.wait_ready()
    talk = Talk(alone.url, SHORT)
    assert talk.speaking.wait(60)
    with frozen(alone.command.pids()):
        alone.command.process.terminate()
        talk.join(60)
        assert talk.stream.error.get("code") == "shutting_down"
    alone.finish()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_who_is_told_twice_ends_at_once(model, number, status):
    """As by Ctrl-C, which all processes hear; with a page open as well."""
    alone = Alone(model, "serve.drain_s=100000")
    alone.wait_ready()
    talk, page = Talk(alone.url, SHORT), Page(alone.url)
    assert talk.speaking.wait(60)
    assert page.sees.wait(60)
    with frozen(alone.command.pids()):
        os.killpg(alone.command.process.pid, number)
        alone.command.wait_until(alone.is_closing)
        time.sleep(0.6)  # sooner, it would be taken for the same signal
        os.killpg(alone.command.process.pid, number)
        alone.finish(status)
    talk.join(60)
    page.join(60)
    assert not talk.stream.done


class Page(threading.Thread):
    """The live page in a browser: it holds a stream of events, and takes it up again when lost."""

    def __init__(self, url):
        super().__init__()
        self.url, self.sees = url, threading.Event()
        self.start()

    def run(self):
        with httpx.Client(base_url=self.url, timeout=120) as http, suppress(httpx.TransportError):
            while True:
                with http.stream("GET", "/cluster/events?since=0") as answer:
                    for _ in answer.iter_lines():
                        self.sees.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pages_that_are_open_do_not_keep_a_server_from_its_end(model, number):
    """One holds a stream, one has left its connection open after a poll, one reads nothing."""
    alone = Alone(model, "serve.drain_s=100000")
    alone.wait_ready()
    page, deaf = Page(alone.url), socket.create_connection(("127.0.0.1", alone.port))
    assert page.sees.wait(60)
    assert alone.http.get("/cluster").status_code == 200
    with deaf:
        deaf.sendall(b"GET /cluster/events?since=0 HTTP/1.1\r\nHost: me\r\n\r\n")
        assert deaf.recv(1)
        os.killpg(alone.command.process.pid, number)
        done = alone.command.finish()
    assert done.status == (0 if number == signal.SIGTERM else 130), done.err
    assert "Traceback" not in done.err
    page.join(60)
    alone.http.close()


def test_an_instance_that_joined_leaves_by_evacuation_and_nothing_is_lost(model):
    control = free_ports(1)
    first = Alone(model, f"cluster.port={control}")
    first.wait_ready()
    late = Alone(model, f"cluster.join=127.0.0.1:{control}")
    first.wait_ready(2)
    prompts = [PROMPT[first : first + 40] for first in (0, 50, 100, 150)]
    talks = [Talk(first.url, prompt) for prompt in prompts]
    assert all(talk.speaking.wait(60) for talk in talks)
    late.command.process.terminate()
    late.finish()
    for talk in talks:
        talk.join(60)
        assert talk.stream.text == text(model, talk.prompt)
    first.wait_ready(1)  # the gateway hears a moment later who has left
    first.command.process.terminate()
    first.finish()
