"""Whatever a client sends, the routes answer below 500 and with an error object if they refuse."""

import asyncio
import json
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from served import byte_tokenizer, httpx

from engine.model.chat import ChatTemplate
from engine.model.tokenizer import Tokenizer
from engine.protocol import Member, Submit, Tokens
from engine.scheduler.request_table import RequestTable
from engine.server.app import build_app
from engine.server.completions import Completions
from engine.server.gateway import Gateway
from engine.server.metrics import Metrics

PATHS = ("/v1/chat/completions", "/v1/completions")
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ m.name }}\n{% endfor %}"


class InstantGateway(Gateway):
    """Answers every request at once, with up to three tokens. No sockets, no journal."""

    def __init__(self):
        self.table = RequestTable(block_tokens=4)
        self.members = [Member(0, 1, "step", 9, 9, 0, 0)]
        self.table.on_members(self.members, 0.0)
        self.terms, self._news, self._expected, self._attending = {}, {}, {}, Counter()

    def submit(self, request, terms):
        self.terms[request.request_id] = terms
        entry = self.table.add(request, 0.0)
        for effect in self.table.take_effects():
            assert isinstance(effect.message, Submit)
            assert effect.message.max_tokens > 0
            ids = [65, 250, 66][: effect.message.max_tokens]
            self.table.on_message(Tokens(effect.message.request_id, 0, ids, "length"), 0.0)
        return entry

    def _pump(self, now):
        self.table.take_effects()


@pytest.fixture(scope="module")
def app():
    gateway, metrics = InstantGateway(), Metrics("tiny")
    tokenizer = Tokenizer(byte_tokenizer(), ChatTemplate(TEMPLATE, {}))
    completions = Completions(gateway, tokenizer, model="tiny", max_positions=40, vocab_size=256)
    return build_app(
        gateway, completions, metrics, model="tiny", max_positions=40, max_body_bytes=4000
    )


def send(app, method, path, content=b"", headers=None):
    async def go():
        transport = httpx.ASGITransport(app=app)  # it raises what the app raises
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers_ = {"content-type": "application/json", **(headers or {})}
            return await client.request(method, path, content=content, headers=headers_)

    answer = asyncio.run(go())
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
