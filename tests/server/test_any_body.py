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
    "prompt": text | st.lists(text | st.lists(st.integers(-1, 300), max_size=45)) | value,
    "stream": st.booleans() | value,
    "stream_options": st.just({}) | st.just({"include_usage": True}) | value,
    "stop": text | st.lists(text, max_size=3) | value,
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed"),
        number | value,
    ),
    **dict.fromkeys(
        ("min_p", "min_tokens", "top_logprobs", "prompt_logprobs", "presence_penalty"),
        st.integers(0, 3) | st.floats(-3, 3) | value,
    ),
    "n": st.integers(-1, 5) | number | value,
    "logprobs": st.booleans() | st.integers(-1, 25) | value,
    "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), st.floats(-101, 101), max_size=2),
    **dict.fromkeys(("stop_token_ids", "allowed_token_ids"), st.lists(st.integers(0, 300)) | value),
    **dict.fromkeys(("echo", "ignore_eos", "include_stop_str_in_output"), st.booleans() | value),
    "bad_words": st.lists(text, max_size=2) | value,
    "request_id": text | value,
    **dict.fromkeys(("repetition_penalty", "tools", "response_format"), value),
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


HUGE = {
    "n": [0, -1, 65, 10**9, 1.5, "two"],
    "temperature": [-0.1, float("nan"), float("inf"), 1e308],
    "top_p": [0, -1, 1.1, float("nan")],
    "min_p": [-0.1, 1.1, float("nan")],
    "presence_penalty": [2.1, float("-inf"), float("nan")],
    "repetition_penalty": [0, -1, float("inf")],
    "stop": [["x"] * 10_000, "x" * 10_000, [1]],
    "stop_token_ids": [[256], [-1], list(range(2000))],
    "logit_bias": [{"256": 1}, {"x": 1}, {"1": 101}, {"1": float("nan")}, [1]],
    "allowed_token_ids": [[256], [-1]],
    "min_tokens": [-1, 17],
    "max_tokens": [-1, 0, 1 << 31],
    "logprobs": [21, -1],
    "prompt_logprobs": [21, -1],
    "request_id": ["", "a b", "a/0", "\u00e9", "x" * 257],
    "prompt": [[], [[]], "", [""], ["a", [1]] * 600, [1, "a", None], [True], 7, "x" * 3000],
}
"""none of these may be taken; for /v1/completions with 16 tokens by default"""


@pytest.mark.parametrize(("name", "given_"), [(k, v) for k, vs in HUGE.items() for v in vs])
def test_what_cannot_be_is_refused_with_what_is_allowed(name, given_):
    app = build(max_body_bytes=1 << 20)
    body = {"model": "tiny", "prompt": "hi", name: given_}
    answer = send(app, "POST", "/v1/completions", json.dumps(body).encode())
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert name in f"{error['param']} {error['message']}" or error["code"]
    assert "Value error" not in error["message"]


def test_ten_megabytes_are_refused_before_they_are_encoded():
    app = build(max_body_bytes=32 << 20)
    for text_ in ("word " * (2 << 20), "x" * (10 << 20)):
        body = {"model": "tiny", "prompt": text_, "messages": [{"role": "user", "content": text_}]}
        for path in PATHS:
            answer = send(app, "POST", path, json.dumps(body).encode())
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "context_length_exceeded"


TOKENIZE = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just("tiny") | value,
        "prompt": text | value,
        "messages": st.lists(message, max_size=2) | value,
        "tokens": st.lists(st.integers(-1, 300)) | value,
        "add_special_tokens": st.booleans() | value,
        "return_token_strs": st.booleans() | value,
    },
)


@given(path=st.sampled_from(["/tokenize", "/detokenize"]), body=TOKENIZE | value)
def test_tokenize_answers_or_refuses_anything(app, path, body):
    send(app, "POST", path, json.dumps(body).encode())


def test_the_schema_can_be_shown(app):
    assert send(app, "GET", "/openapi.json").status_code == 200
