"""A server whose log goes to a full disk says nothing, and serves."""

import os
import signal

import pytest
from served import Command, free_ports, httpx, make_chatting_checkpoint, steps_of

TO_A_FULL_DISK = ("sh", "-c", 'exec "$@" >/dev/full 2>/dev/full', "sh")


@pytest.fixture
def server(tmp_path):
    port = free_ports(1)
    command = Command(
        "serve",
        f"model.path={make_chatting_checkpoint(tmp_path / 'model')}",
        "model.dtype=float32",
        "pool.num_blocks=160",
        "pool.block_tokens=8",
        "serve.model_name=tiny",
        f"serve.port={port}",
        prefix=TO_A_FULL_DISK,
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
        command.http = http
        yield command


def is_ready(http):
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_what_cannot_be_logged_is_served(server):
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 3}
    server.wait_until(lambda: is_ready(server.http))
    assert server.http.post("/v1/completions", json=body).status_code == 200
    (step,) = steps_of(server.pids())
    os.kill(step, signal.SIGKILL)  # of which the supervisor speaks
    server.wait_until(lambda: steps_of(server.pids()) not in ([], [step]))
    assert server.http.post("/v1/completions", json=body).status_code == 200
    server.process.terminate()
    assert server.finish().status == 0
