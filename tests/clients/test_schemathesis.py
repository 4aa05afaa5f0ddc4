"""What schemathesis makes of our OpenAPI document: any request is answered or refused, never with
a 5xx, in the shapes that the document says. 1,000 cases and more, 6,000 with the ci profile.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from outside import HERE, needs_clients, run
from served import Server, make_chatting_checkpoint

pytestmark = needs_clients
CHECKS = [
    "not_a_server_error",
    "no_error_within_a_stream",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
CLIENTS = 2
NEVER_ENDS = "/cluster/events"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("schemathesis") / "model")
    with Server(model, 2) as server:
        yield server
    # uvicorn says this of headers that are none, which it refuses by itself.
    assert set(server.said.splitlines()) <= {"WARNING:  Invalid HTTP request received."}


def ask(folder, url, paths):
    """How many requests were made, of all that the document says of these paths."""
    folder.mkdir()
    each = 4 * settings().max_examples
    command = ["schemathesis", "run", f"{url}/openapi.json", "--phases", "fuzzing"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(each), "--seed", "1"]
    command += ["--continue-on-failure", "--warnings", "off", "--no-color", "--no-shrink"]
    command += ["--request-timeout", "300", "--generation-database", "none"]
    command += [word for path in paths for word in ("--include-path", path)]
    said = run(folder, *command, PYTHONPATH=str(HERE), SCHEMATHESIS_HOOKS="schemathesis_hooks")
    (number,) = re.findall(r"([\d,]+) generated", said)
    return int(number.replace(",", ""))


@pytest.mark.timeout(3600)
def test_any_request_is_answered_or_refused(server, tmp_path):
    """By one client for each processor: to think of a request takes longer than to answer it."""
    paths = server.http.get("/openapi.json").json()["paths"].keys() - {NEVER_ENDS}
    shares = [sorted(paths)[first::CLIENTS] for first in range(CLIENTS)]
    folders = [tmp_path / str(number) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        numbers = clients.map(ask, folders, [server.url] * CLIENTS, shares)
        assert sum(numbers) >= 20 * settings().max_examples
    server.wait_until(server.idle)
    body = {"model": "tiny", "prompt": "still well", "max_tokens": 3}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
