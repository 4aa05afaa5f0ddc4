"""The openai client's structured outputs and tool loop against a true server of a tiny model."""

import json
import re
from enum import Enum
from typing import Annotated, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field
from served import Server, make_chatting_checkpoint

from engine.server.tools.calls_grammar import MAX_CALLS

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


class Weather(BaseModel):
    """Weather of a city."""

    city: Annotated[str, Field(pattern="^[A-Z][a-z]{2,6}$")]
    unit: Literal["C", "F"]


CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [openai.pydantic_function_tool(Weather), CLOCK]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(
        tmp_path_factory.mktemp("served") / "model", max_positions=4096, initializer_range=0.05
    )
    with Server(model, 2, "pool.num_blocks=300", "serve.max_body_bytes=400000") as server:
        yield server
    assert "Traceback" not in server.said


@pytest.fixture
def chat(server):
    return server.openai.chat.completions


def arguments_are_valid(call):
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in TOOLS}
    schema = schemas[call.function.name] or {"type": "object", "maxProperties": 0}
    jsonschema.validate(json.loads(call.function.arguments), schema)
    return True


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


def test_a_tool_that_must_be_called_is(chat):
    ask = {"messages": CHAT, "tool_choice": "required"} | ASK
    for seed in range(3):
        done = chat.create(tools=TOOLS, parallel_tool_calls=False, seed=seed, **ask)
        [call] = done.choices[0].message.tool_calls
        assert arguments_are_valid(call)
        assert done.choices[0].message.content is None
        assert done.choices[0].finish_reason == "tool_calls"


def test_several_tools_are_called_at_once(chat):
    """This model has no token to end with: it calls as often as it may."""
    ask = {"messages": CHAT, "tool_choice": "required"} | ASK | {"max_tokens": 2500}
    done = chat.create(tools=[CLOCK], **ask).choices[0]
    assert done.finish_reason == "tool_calls"
    assert len(done.message.tool_calls) == MAX_CALLS
    assert {call.function.name for call in done.message.tool_calls} == {"clock"}
    assert len({call.id for call in done.message.tool_calls}) == MAX_CALLS


def test_the_tool_that_is_named_is_called_once(chat):
    named = {"type": "function", "function": {"name": "Weather"}}
    done = chat.parse(messages=CHAT, tools=TOOLS[:1], tool_choice=named, **ASK).choices[0]
    [call] = done.message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    assert done.finish_reason == "tool_calls"


def test_streamed_calls_are_those_of_the_whole_answer(chat):
    ask = {"messages": CHAT, "tools": TOOLS, "tool_choice": "required", "seed": 3} | ASK
    ask["parallel_tool_calls"] = False
    whole = chat.create(**ask).choices[0].message.tool_calls
    calls, reason = {}, ""
    for chunk in chat.create(stream=True, **ask):
        reason = chunk.choices[0].finish_reason or reason
        assert not chunk.choices[0].delta.content
        for piece in chunk.choices[0].delta.tool_calls or []:
            if piece.index not in calls:
                assert piece.id
                assert piece.type == "function"
                assert piece.function.name
                calls[piece.index] = [piece.function.name, ""]
            else:
                assert piece.id is None
                assert piece.function.name is None
            calls[piece.index][1] += piece.function.arguments
    assert reason == "tool_calls"
    assert list(calls.values()) == [[c.function.name, c.function.arguments] for c in whole]
    with chat.stream(**ask) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [call.function.name for call in message.tool_calls] == [c.function.name for c in whole]


def test_the_tool_loop_goes_round(chat):
    messages = list(CHAT)
    for turn in range(2):
        message = (
            chat.create(
                messages=messages,
                tools=TOOLS,
                tool_choice="required",
                parallel_tool_calls=False,
                seed=turn,
                **ASK,
            )
            .choices[0]
            .message
        )
        [call] = message.tool_calls
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "21"}]
    done = chat.create(messages=messages, tools=TOOLS, **ASK | {"max_tokens": 8}).choices[0]
    assert done.finish_reason == "length"
    assert done.message.tool_calls is None
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [[1], [2]]}}}
    found = {
        len(choice.message.tool_calls or []) or json.loads(choice.message.content)[0]
        for choice in (
            chat.create(
                messages=CHAT,
                tools=TOOLS,
                parallel_tool_calls=False,
                response_format=form,
                seed=seed,
                **ASK,
            ).choices[0]
            for seed in range(4)
        )
    }
    assert found <= {1, 2}


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
    "no tools": weird(tool_choice="required"),
    "no such tool": weird(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "x"}}),
    "bad name": weird(tools=[{"type": "function", "function": {"name": "a b"}}]),
    "twice": weird(tools=[CLOCK, CLOCK]),
    "no object": weird(
        tools=[{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}],
        tool_choice="required",
    ),
    "tools and a regex": weird(tools=TOOLS, structured_outputs={"regex": "a"}),
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
