"""What schemathesis makes of our OpenAPI document: any request is answered or refused, never with
a 5xx, in the shapes that the document says. 1,000 cases and more, 6,000 with the ci profile.
"""

import re

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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("schemathesis") / "model")
    with Server(model, 2) as server:
        yield server
    # uvicorn says this of headers that are none, which it refuses by itself.
    assert set(server.said.splitlines()) <= {"WARNING:  Invalid HTTP request received."}


@pytest.mark.timeout(3600)
def test_any_request_is_answered_or_refused(server, tmp_path):
    each = 4 * settings().max_examples
    command = ["schemathesis", "run", f"{server.url}/openapi.json", "--phases", "fuzzing"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(each), "--seed", "1"]
    command += ["--continue-on-failure", "--warnings", "off", "--no-color", "--no-shrink"]
    command += ["--request-timeout", "300", "--exclude-path", "/cluster/events"]  # which never ends
    said = run(tmp_path, *command, PYTHONPATH=str(HERE), SCHEMATHESIS_HOOKS="schemathesis_hooks")
    (number,) = re.findall(r"([\d,]+) generated", said)
    assert int(number.replace(",", "")) >= 20 * settings().max_examples, said
    server.wait_until(server.idle)
    body = {"model": "tiny", "prompt": "still well", "max_tokens": 3}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
