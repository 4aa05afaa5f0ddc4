"""Processes of a server are killed under load: every answer is told once, whole and exact."""

import socket
import subprocess
import sys
import threading

import pytest
from served import ROOT, Server, Stream, httpx, make_chatting_checkpoint, text_of
from tiny_models import reference_tokens

LENGTHS = (20, 220, 60, 100)
"""tokens of the prompts; a pool holds 192"""
WANTED = (200, 80, 180, 140)
"""tokens of the answers"""
GROW = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_chatting_checkpoint(tmp_path_factory.mktemp("faults") / "model")


@pytest.fixture(scope="module")
def server(model):
    server = Server(model, 2)
    try:
        server.wait_until(server.ready)
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def texts(model):
    return [text_of(reference_tokens(model, prompt(i), WANTED[i])) for i in range(len(LENGTHS))]


def prompt(client):
    return [(11 * client + 5 * token + 1) % 256 for token in range(LENGTHS[client])]


class Listener(threading.Thread):
    """Reads one client's stream; ``come_back`` follows the same stream again."""

    def __init__(self, server, client):
        super().__init__()
        self.server, self.client = server, client
        self.stream = Stream()
        self.speaking = threading.Event()
        self.body = {
            "model": "tiny",
            "prompt": prompt(client),
            "max_tokens": WANTED[client],
            "temperature": 0,
            "stream": True,
        }
        self.start()

    def run(self):
        url, body = self.server.url, self.body
        with httpx.Client(base_url=url, timeout=60) as http:
            if not self.stream.last_id:
                self._read(http, "POST", "/v1/completions", {}, body)
                return
            last = {"Last-Event-ID": self.stream.last_id}
            if self.client % 2:
                name = self.stream.last_id.rpartition(":")[0]
                self._read(http, "GET", f"/v1/streams/{name}", last, None)
            else:
                self._read(http, "POST", "/v1/completions", last, body)

    def _read(self, http, method, path, headers, body):
        with http.stream(method, path, headers=headers, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            first = self.stream.num_events
            for _ in self.stream.read(answer.iter_lines()):
                if self.stream.num_events >= first + 4:
                    self.speaking.set()
        if self.stream.done:
            self.speaking.set()

    def come_back(self):
        again = Listener.__new__(Listener)
        threading.Thread.__init__(again)
        again.server, again.client, again.body = self.server, self.client, self.body
        again.stream, again.speaking = self.stream, threading.Event()
        again.start()
        return again


def all_speak(listeners):
    for listener in listeners:
        assert listener.speaking.wait(60), listener.server.errors()


def all_exact(server, listeners, texts):
    for listener, text in zip(listeners, texts, strict=True):
        listener.join(90)
        stream = listener.stream
        assert not stream.error
        assert stream.done, server.errors()
        assert stream.text == text
        assert stream.finish_reason == "length"
    server.wait_until(lambda: server.idle(spare=GROW))
    assert "Traceback" not in server.errors()


@pytest.mark.parametrize("victim", ["step 0", "pool 0", "pool 1", "planner"])
def test_streams_survive_a_kill(server, texts, victim):
    pid = server.pid_of(victim)
    listeners = [Listener(server, client) for client in range(len(LENGTHS))]
    all_speak(listeners)
    server.kill(pid)
    all_exact(server, listeners, texts)
    server.wait_until(server.ready)


def test_who_comes_back_after_a_gateway_kill_gets_exactly_what_follows(server, texts):
    gateway = server.pid_of("gateway")
    listeners = [Listener(server, client) for client in range(len(LENGTHS))]
    all_speak(listeners)
    num_cut = 0
    for _ in range(2):
        server.kill(gateway)
        gateway = server.pid_of("gateway")
        for listener in listeners:
            listener.join(60)
        num_cut += sum(not listener.stream.done for listener in listeners)
        listeners = [listener.come_back() for listener in listeners]
        all_speak(listeners)
    assert num_cut, "every stream was whole before its gateway was killed"
    all_exact(server, listeners, texts)
    # Who missed the end alone gets it, even from the next gateway; who had it gets no more.
    server.kill(gateway)
    stream = listeners[1].stream
    name, _, number = stream.last_id.rpartition(":")
    for last, kinds in ((int(number) - 1, ["length"]), (int(number), [])):
        answer = server.http.get(
            f"/v1/streams/{name}", headers={"Last-Event-ID": f"{name}:{last}"}
        ).text
        lines = [line for line in answer.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "data: [DONE]"
        assert [line for line in lines if '"length"' in line] == lines[:-1]
        assert len(lines) - 1 == len(kinds)
    told = Stream()
    for _ in told.read(iter(server.http.get(f"/v1/streams/{name}").text.splitlines())):
        pass
    assert told.text == texts[1]


def test_sigterm_under_load_ends_all_in_order(server):
    listeners = [Listener(server, client) for client in range(2)]
    all_speak(listeners)
    server.stop()
    for listener in listeners:
        listener.join(30)
        assert not listener.is_alive()
        assert listener.stream.done


@pytest.mark.parametrize("instances", [1, 2])
def test_a_port_in_use_is_one_sentence(model, instances):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "engine", "serve", f"serve.port={port}"]
        command += [f"model.path={model}", "model.dtype=float32", f"instances={instances}"]
        done = subprocess.run(
            [*command, "scheduler.max_step_tokens=32"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("lendkv: ")]
    assert len(said) == 1
    assert f"cannot serve HTTP at 127.0.0.1:{port} (Address already in use)" in said[0]
    assert "Traceback" not in done.stderr
