"""All ways in which litellm asks for an answer; prints what it got. Runs in the clients' venv."""

import asyncio
import json
import sys

import litellm

MESSAGES = [{"role": "user", "content": "hi"}]
COMMON = {"api_base": sys.argv[1], "api_key": "none", "temperature": 0, "max_tokens": 12}
CHAT = COMMON | {"messages": MESSAGES}
STREAM = CHAT | {"stream": True, "stream_options": {"include_usage": True}}


def whole(answer):
    choice, usage = answer.choices[0], answer.usage
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "usage": [usage.prompt_tokens, usage.completion_tokens],
    }


def streamed(chunks):
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    usage = chunks[-1].usage
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": next(choice.finish_reason for choice in choices if choice.finish_reason),
        "usage": [usage.prompt_tokens, usage.completion_tokens],
    }


async def later():
    model = "openai/tiny"
    many = await asyncio.gather(*(litellm.acompletion(model=model, **CHAT) for _ in range(4)))
    stream = await litellm.acompletion(model=model, **STREAM)
    return {
        "async": [whole(answer) for answer in many],
        "async stream": streamed([chunk async for chunk in stream]),
    }


def refused():
    try:
        litellm.completion(model="openai/gpt-9", **CHAT)
    except litellm.NotFoundError as error:
        return error.status_code


text = litellm.text_completion(model="hosted_vllm/tiny", prompt="hi", **COMMON)
print(
    json.dumps(
        {
            "openai": whole(litellm.completion(model="openai/tiny", **CHAT)),
            "hosted_vllm": whole(litellm.completion(model="hosted_vllm/tiny", **CHAT)),
            "stream": streamed(list(litellm.completion(model="openai/tiny", **STREAM))),
            "completion": text.choices[0].text,
            "refused": refused(),
            **asyncio.run(later()),
        }
    )
)
