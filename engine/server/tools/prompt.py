"""Conversations with tools as a chat template takes them."""

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]


def for_template(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, knows_tools: bool
) -> list[Message]:
    """Messages for a template; one that does not know tools gets them and their calls as text."""
    if knows_tools:
        return list(messages)
    told: list[Message] = []
    for message, before in zip(messages, [None, *messages], strict=False):
        text = _as_text(message)
        if before and message["role"] == before["role"] == "tool":
            told[-1]["content"] += "\n" + text["content"]
        else:
            told.append(text)
    if not tools:
        return told
    introduction = _introduction(tools)
    if told and told[0]["role"] == "system":
        introduction = f"{told[0]['content']}\n\n{introduction}"
        told = told[1:]
    return [{"role": "system", "content": introduction}, *told]


def _introduction(tools: Sequence[dict[str, Any]]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "You can call functions. Each line between <tools> and </tools> describes one as JSON:\n"
        f"<tools>\n{lines}\n</tools>\n"
        "To call a function write its name and arguments as one JSON object, like this:\n"
        '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>\n'
        "What it returned comes between <tool_response> and </tool_response>."
    )


def _as_text(message: Message) -> Message:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not calls:
        return message
    parts = [message["content"]] if message["content"] else []
    for call in calls:
        called = json.dumps(call["function"], ensure_ascii=False)
        parts.append(f"<tool_call>\n{called}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(parts)}
