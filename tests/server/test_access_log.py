"""One line a request: who, what, how long, and what came of it; the client's id is told back."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from instant import build, send

from engine.server.access_log import _line
from engine.server.api_keys import ApiKeys

KEYS = ApiKeys([("here", "sk-secret name=alice")])
BODY = {"model": "tiny", "prompt": "hello", "max_tokens": 2}
ALICE = {"authorization": "Bearer sk-secret"}


def logged(method, path, body=b"", headers=None, *, as_json=True):
    lines = []
    app = build(keys=KEYS, write_log=lines.append, log_as_json=as_json)
    answer = send(app, method, path, body, headers)
    return answer, [json.loads(line) for line in lines] if as_json else lines


@pytest.mark.parametrize("stream", [False, True])
def test_a_line_tells_who_asked_and_what_came_of_it(stream):
    body = json.dumps({**BODY, "stream": stream}).encode()
    headers = {**ALICE, "x-request-id": "mine-7"}
    answer, [line] = logged("POST", "/v1/completions", body, headers)
    assert answer.headers["x-request-id"] == "mine-7"
    assert line["request_id"] == "mine-7"
    assert line["key"] == "alice"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/completions", 200)
    assert (line["prompt_tokens"], line["output_tokens"], line["finish"]) == (5, 2, "length")
    assert line["id"].startswith("cmpl-")
    assert {"time", "client", "total_s", "ttft_s", "queued_s"} <= line.keys()


def test_a_refusal_is_told_as_well_and_never_with_the_key():
    answer, [line] = logged("POST", "/v1/completions", b"{}", {"authorization": "Bearer sk-wrong"})
    assert (answer.status_code, line["status"], line["key"]) == (401, 401, "")
    answer, [line] = logged("POST", "/v1/completions", b"{}", ALICE)
    assert line["status"] == 400
    assert "sk-" not in json.dumps(line)


def test_probes_are_told_only_when_they_are_refused():
    answer, lines = logged("GET", "/health")
    assert (answer.status_code, lines) == (200, [])


def test_who_gives_no_id_gets_one():
    first, [line] = logged("GET", "/v1/models", b"", ALICE)
    again, _ = logged("GET", "/v1/models", b"", ALICE)
    ids = [answer.headers["x-request-id"] for answer in (first, again)]
    assert ids[0] == line["request_id"]
    assert ids[0] != ids[1]


def test_without_a_log_the_id_is_still_told():
    answer = send(build(), "GET", "/v1/models", b"", {"x-request-id": "x"})
    assert answer.headers["x-request-id"] == "x"


@given(st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.text())))
def test_a_text_line_is_one_line_of_words_whatever_is_in_it(fields):
    line = _line(fields, as_json=False)
    assert line.isprintable()
    words = shlex.split(line) if line else []
    assert [word.partition("=")[0] for word in words] == list(fields)
