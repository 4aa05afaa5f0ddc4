"""The openai client's structured outputs against a true server of a tiny model."""

import json
import re
from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field
from served import Server, make_chatting_checkpoint

CHAT = [{"role": "user", "content": "hi"}]
ASK = {"model": "tiny", "max_tokens": 300, "temperature": 1.0}


class Kind(Enum):
    small = "small"
    large = "large"


class Part(BaseModel):
    kind: Kind
    size: Annotated[int, Field(ge=1, le=99)]


class Order(BaseModel):
    name: Annotated[str, Field(pattern="^[a-z]{2,8}$")]
    parts: Annotated[list[Part], Field(min_length=1, max_length=2)]
    note: Literal["none"] | None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(
        tmp_path_factory.mktemp("served") / "model", max_positions=4096, initializer_range=0.05
    )
    server = Server(model, 2, "pool.num_blocks=300", "serve.max_body_bytes=400000")
    try:
        server.wait_until(server.ready)
        yield server
    finally:
        said = server.stop()
    assert "Traceback" not in said


@pytest.fixture
def chat(server):
    return server.openai.chat.completions


def test_a_pydantic_model_comes_back(chat):
    for seed in range(3):
        done = chat.parse(messages=CHAT, response_format=Order, seed=seed, **ASK).choices[0]
        assert done.finish_reason == "stop"
        assert isinstance(done.message.parsed, Order)


def test_a_pydantic_model_comes_streamed(chat):
    whole = chat.parse(messages=CHAT, response_format=Order, seed=5, **ASK).choices[0]
    with chat.stream(messages=CHAT, response_format=Order, seed=5, **ASK) as stream:
        events = list(stream)
    assert stream.get_final_completion().choices[0].message.parsed == whole.message.parsed
    text = "".join(event.delta for event in events if event.type == "content.delta")
    assert text == whole.message.content


def test_any_object_comes_as_json(chat):
    form = {"type": "json_object"}
    ends = set()
    for seed in range(6):
        done = chat.create(messages=CHAT, response_format=form, seed=seed, **ASK).choices[0]
        ends.add(done.finish_reason)
        if done.finish_reason == "stop":
            assert isinstance(json.loads(done.message.content), dict)
        else:
            assert done.message.content.startswith("{")
    assert ends <= {"stop", "length"}


@pytest.mark.parametrize("stream", [False, True])
def test_completions_take_vllms_names(server, stream):
    for wanted, pattern in (
        ({"regex": "[ab]{3}c"}, "[ab]{3}c"),
        ({"choice": ["left", "right"]}, "left|right"),
        ({"grammar": 'root ::= "x" [0-9] [0-9]'}, "x[0-9]{2}"),
        ({"json": {"type": "boolean"}}, "true|false"),
        ({"json": '{"enum": [1, 2]}'}, "1|2"),
    ):
        extra = {"structured_outputs": wanted}
        done = server.openai.completions.create(prompt="p", extra_body=extra, stream=stream, **ASK)
        choices = [chunk.choices[0] for chunk in done] if stream else done.choices
        assert re.fullmatch(pattern, "".join(choice.text for choice in choices))
        assert choices[-1].finish_reason == "stop"


def weird(**change):
    return {"messages": CHAT, **ASK} | change


def schema(**inside):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inside}}


REFUSED = {
    "no schema": weird(response_format={"type": "json_schema"}),
    "unknown format": weird(response_format={"type": "xml"}),
    "no type": weird(response_format=schema(type="strin")),
    "unsupported": weird(response_format=schema(type="array", uniqueItems=True)),
    "impossible": weird(response_format=schema(type="integer", minimum=5, maximum=3)),
    "look-ahead": weird(structured_outputs={"regex": "(?=a)b"}),
    "unclosed": weird(structured_outputs={"regex": "(a"}),
    "no rule": weird(structured_outputs={"grammar": "start: nothing"}),
    "no choice": weird(structured_outputs={"choice": []}),
    "two": weird(structured_outputs={"choice": ["a"], "regex": "a"}),
    "none": weird(structured_outputs={}),
    "unknown": weird(structured_outputs={"structural_tag": "x"}),
    "both": weird(structured_outputs={"regex": "a"}, response_format={"type": "json_object"}),
    "old names": weird(guided_json={"type": "object"}),
    "no JSON": weird(structured_outputs={"json": "{"}),
    "huge": weird(structured_outputs={"choice": [f"choice {n}" for n in range(3000)] * 3}),
    "deep": weird(response_format=schema(anyOf=[json.loads('{"items":' * 300 + "{}" + "}" * 300)])),
    "elsewhere": weird(response_format=schema(**{"$ref": "http://127.0.0.1:1/x"})),
    "functions": weird(functions=[{"name": "x"}]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_with_the_reason(server, name):
    answer = server.http.post("/v1/chat/completions", json=REFUSED[name])
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 600
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
