"""Whatever a client sends, the routes answer below 500 and with an error object if they refuse."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from instant import build
from instant import send as send_any

PATHS = ("/v1/chat/completions", "/v1/completions")


@pytest.fixture(scope="module")
def app():
    return build()


def send(app, method, path, content=b"", headers=None):
    answer = send_any(app, method, path, content, headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
    return answer


text = st.text(st.characters(exclude_categories=[]), max_size=8)  # lone surrogates, too
number = st.one_of(
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 1 << 31, 1 << 63, 1e308]),
)
value = st.recursive(
    st.one_of(st.none(), st.booleans(), number, text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
message = st.one_of(
    value,
    st.fixed_dictionaries(
        {"role": text, "content": text | st.none() | value},
        optional={"name": value, "tool_calls": value, "items": value},
    ),
)
PLAUSIBLE = {
    "model": st.just("tiny") | value,
    "messages": st.lists(message, max_size=3) | value,
    "prompt": text | st.lists(st.integers(-1, 300), max_size=45) | value,
    "stream": st.booleans() | value,
    "stream_options": st.just({}) | st.just({"include_usage": True}) | value,
    "stop": text | st.lists(text, max_size=3) | value,
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed"),
        number | value,
    ),
    **dict.fromkeys(("n", "logprobs", "echo", "logit_bias", "tools", "response_format"), value),
}
body = st.fixed_dictionaries(
    {
        "model": st.just("tiny"),
        "messages": st.just([{"role": "user", "content": "hi"}]),
        "prompt": st.just("hi"),
    }
)
changed = st.tuples(body, st.fixed_dictionaries({}, optional=PLAUSIBLE)).map(
    lambda pair: pair[0] | pair[1]
)


@example(
    path="/v1/completions", body={"model": "tiny", "prompt": "hi", "max_completion_tokens": -1.0}
)
@given(path=st.sampled_from(PATHS), body=changed)
def test_plausible_bodies_are_answered_or_refused(app, path, body):
    send(app, "POST", path, json.dumps(body).encode())


@given(path=st.sampled_from(PATHS), body=value)
def test_any_json_is_refused(app, path, body):
    assert send(app, "POST", path, json.dumps(body).encode()).status_code == 400


@given(path=st.sampled_from(PATHS), body=st.binary(max_size=60))
def test_any_bytes_are_refused(app, path, body):
    assert send(app, "POST", path, body).status_code == 400


@given(last=st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=8))
def test_any_event_id_is_refused(app, last):
    headers = {"last-event-id": f"cmpl-0:{last}".encode("latin-1")}
    assert send(app, "GET", "/v1/streams/cmpl-0", headers=headers).status_code == 404


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_right_is_answered(app, path, stream):
    body = {"model": "tiny", "stream": stream, "max_tokens": 3, "prompt": "hi"}
    body["messages"] = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    answer = send(app, "POST", path, json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n") is stream
