"""One streamed request over HTTP: what is sent, and when what comes back came."""

import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec

from engine.load.options import Options
from engine.load.outcome import Outcome
from engine.load.sample import Sample
from engine.model.tokenizer import Tokenizer

ROUTES = {
    "openai": "/v1/completions",
    "vllm": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}
DRAWN = ("random", "prefix_repetition", "timed_trace")
"""datasets without a meaning: their answers go on to the wanted length"""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None

    @property
    def content(self) -> str:
        delta = self.delta
        return self.text or delta.content or delta.reasoning_content or delta.reasoning or ""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Client:
    """Sends samples to one server. Use it as a context manager, in a running event loop."""

    def __init__(
        self, options: Options, model: str, tokenizer: Tokenizer, clock: Callable[[], float]
    ) -> None:
        self._options, self._model, self._tokenizer = options, model, tokenizer
        self._clock = clock
        self._url = options.url + (options.endpoint or ROUTES[options.backend])
        self._fixed = _fixed_part(options, model)

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
            headers=headers(self._options),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, sample: Sample, outcome: Outcome) -> None:
        """Fill in the outcome; whatever fails is noted there. To cancel it is to disconnect."""
        content = json.dumps(self._body(sample)).encode()
        usage: _Usage | None = None
        finished = 0.0
        outcome.sent = self._clock()
        try:
            async with self._session.post(self._url, data=content) as reply:
                if reply.status != 200:
                    outcome.error = f"HTTP {reply.status}: {message_of(await reply.read())}"
                    return
                async for came, event in _events(reply.content, self._clock):
                    chunk = _decode(event)
                    if chunk.error:
                        outcome.error = f"in the stream: {chunk.error}"
                        return
                    usage = chunk.usage or usage
                    finished = came if chunk.choices else finished
                    if text := "".join(choice.content for choice in chunk.choices):
                        outcome.times.append(came)
                        outcome.text += text
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        except msgspec.MsgspecError as error:
            outcome.error = f"an event that is no chunk: {error}"
        finally:
            outcome.ended = self._clock()
        if outcome.error or not finished:
            outcome.error = outcome.error or "the stream ended without a chunk"
            return
        # Tokens without a character of text: the answer's end is all that could be seen.
        outcome.times = outcome.times or [finished]
        if usage is not None:
            outcome.num_prompt = usage.prompt_tokens or outcome.num_prompt
            outcome.num_output = usage.completion_tokens
        else:
            outcome.num_output = len(
                self._tokenizer.backend.encode(outcome.text, add_special_tokens=False)
            )

    def _body(self, sample: Sample) -> dict[str, Any]:
        if self._options.backend == "openai-chat":
            messages = [{"role": "user", "content": sample.prompt}]
            own = {"messages": messages, "max_completion_tokens": sample.num_output}
        else:
            own = {"prompt": sample.prompt, "max_tokens": sample.num_output}
        return {**self._fixed, **own, **self._options.body}


def headers(options: Options) -> dict[str, str]:
    """With the key of the environment's OPENAI_API_KEY, unless ``--header`` says another."""
    found = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        found["Authorization"] = f"Bearer {key}"
    return found | options.headers


def message_of(body: bytes) -> str:
    """The message of an error object, or what else there is."""
    text = body.decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text[:200]


def _fixed_part(options: Options, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "temperature": options.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.top_p < 1:
        body["top_p"] = options.top_p
    if options.top_k:
        body["top_k"] = options.top_k
    if options.ignore_eos or options.dataset_name in DRAWN:
        body["ignore_eos"] = True
    return body


async def _events(
    content: aiohttp.StreamReader, clock: Callable[[], float]
) -> AsyncIterator[tuple[float, bytes]]:
    """(when it came, data) of each server-sent event up to [DONE]."""
    rest = b""
    async for piece in content.iter_any():
        came = clock()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield came, data
