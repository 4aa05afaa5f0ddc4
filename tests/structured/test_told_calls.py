"""Tool calls of answers as a client is told them, whole and streamed; what prompts say of tools."""

import json

import pytest
from instant import InstantGateway, build, send
from served import ids_of

from engine.errors import CheckpointError
from engine.model.chat import ChatTemplate
from engine.server.schemas import ChatBody
from engine.server.tools.formats import FORMATS, format_of
from engine.server.tools.prompt import for_template

TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]
CALLS = (
    'Well.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
ASK = {"model": "tiny", "messages": [{"role": "user", "content": ""}], "tools": TOOLS}
BUILT = {"max_positions": 3000, "max_body_bytes": 9000}


def answer(text, **more):
    app = build(InstantGateway(ids_of(text), "stop"), **BUILT)
    said = send(app, "POST", "/v1/chat/completions", json.dumps(ASK | more).encode())
    assert said.status_code == 200, said.text
    return said


def streamed(text, **more):
    lines = answer(text, stream=True, **more).text.splitlines()
    assert lines.count("data: [DONE]") == 1
    bodies = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return [body["choices"][0] for body in bodies]


def test_calls_are_told_as_openai_does():
    choice = answer(CALLS).json()["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "Well."
    assert [call["type"] for call in message["tool_calls"]] == ["function", "function"]
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "add", "arguments": '{"a": 1, "b": [2]}'},
        {"name": "now", "arguments": "{}"},
    ]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") and len(one) == 29 for one in ids)


def test_a_stream_tells_the_name_first_and_then_the_arguments():
    choices = streamed(CALLS)
    assert "".join(one["delta"].get("content", "") for one in choices) == "Well."
    pieces = [piece for one in choices for piece in one["delta"].get("tool_calls", [])]
    calls = {}
    for piece in pieces:
        if piece["index"] not in calls:
            assert piece.keys() == {"index", "id", "type", "function"}
            calls[piece["index"]] = [piece["function"]["name"], ""]
        else:
            assert piece.keys() == {"index", "function"}
        calls[piece["index"]][1] += piece["function"]["arguments"]
    assert calls == {0: ["add", '{"a": 1, "b": [2]}'], 1: ["now", "{}"]}
    assert len(pieces) > 10  # as they come, not all at once
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["tool_calls"]


@pytest.mark.parametrize(
    "text", ["<tool_call> is how it begins", '<tool_call>\n{"name": "ad', "a <tool", " x \n"]
)
def test_what_only_begins_like_a_call_is_content(text):
    choice = answer(text).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": text}
    assert choice["finish_reason"] == "stop"
    assert "".join(one["delta"].get("content", "") for one in streamed(text)) == text


@pytest.mark.parametrize("more", [{"tools": []}, {"tool_choice": "none"}])
def test_without_tools_a_call_is_text(more):
    choice = answer(CALLS, **more).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": CALLS}
    assert choice["finish_reason"] == "stop"


def test_an_answer_that_is_cut_says_so():
    choice = answer(CALLS, max_tokens=60).json()["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert '{"a": 1, "b": [2]}'.startswith(call["function"]["arguments"])


TEMPLATES = {
    "{{ tools }}<tool_call>": "hermes",
    "{{ messages }}": "hermes",
    '{% if tools %}{"name": .., "parameters": ..}{% endif %}': "llama3_json",
    "{{ tools }}<|python_tag|>": "llama3_json",
    "{{ tools }}[TOOL_CALLS]": "mistral",
    "{{ tools }}[TOOL_CALLS][ARGS]": None,
    "{{ tools }}<tool_call><function=": None,
    "{{ tools }}": None,
}


@pytest.mark.parametrize("source", TEMPLATES)
def test_the_format_is_the_templates(source):
    found = format_of(ChatTemplate(source, {}), "auto")
    assert (found and found.name) == TEMPLATES[source]


def test_the_format_can_be_chosen():
    template = ChatTemplate("{{ tools }}", {})
    assert format_of(template, "mistral") is FORMATS["mistral"]
    assert format_of(template, "none") is None
    assert format_of(None, "auto") is None


def conversation(**more):
    """A round of calls, as the openai client sends it back."""
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        {"role": "tool", "tool_call_id": "call_2", "content": "3"},
    ]
    return ChatBody(model="m", messages=messages, tools=TOOLS, **more)


def test_templates_get_tools_and_arguments_as_objects():
    source = (
        "{{ tools|length }}{% for m in messages %}|{{ m.role }}"
        "{% for c in m.tool_calls %} {{ c.function.arguments.a }}{% endfor %}{% endfor %}"
    )
    template, body = ChatTemplate(source, {}), conversation()
    plain = [message.plain() for message in body.messages]
    tools = [tool.plain() for tool in body.told_tools]
    told = for_template(plain, tools, knows_tools=template.knows_tools)
    assert template.render(told, tools) == "2|user|assistant 1|tool|tool"


def test_a_template_without_tools_is_told_of_them_in_text():
    body = conversation()
    plain = [message.plain() for message in body.messages]
    system, user, assistant, results = for_template(
        plain, [tool.plain() for tool in body.told_tools], knows_tools=False
    )
    assert system["role"] == "system"
    assert '"name": "now"' in system["content"]
    assert user["content"] == "1 + 1?"
    assert assistant["content"] == (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    )
    assert results["content"] == (
        "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>"
    )
    with_system = [{"role": "system", "content": "Be brief."}, *plain]
    first = for_template(with_system, [TOOLS[0]], knows_tools=False)[0]
    assert first["content"].startswith("Be brief.\n\n")
    assert for_template(with_system, [], knows_tools=False)[0]["content"] == "Be brief."


def test_no_tools_are_told_of_that_may_not_be_called():
    assert conversation(tool_choice="none").told_tools == []
    named = {"type": "function", "function": {"name": "now"}}
    body = conversation(tool_choice=named)
    assert [tool.function.name for tool in body.usable_tools] == ["now"]
    assert len(body.told_tools) == 2


def test_a_broken_template_is_refused():
    with pytest.raises(CheckpointError, match="chat template is invalid"):
        ChatTemplate("{% if tools %}", {})
