"""Completions: from a checked body to an answer, whole or streamed. Knows HTTP's events, no routes.

A stream's events carry ``id: REQUEST:NUMBER``: 0 for the beginning, then the number of tokens told,
then one each for held-back text, the end and the usage. No two share a number, so a client that
comes back with it as Last-Event-ID gets exactly what follows. Who wants token ids gets an event for
each token, even without text; else those that have none are left out.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import TypeVar

from engine.core import Request, SamplingParams
from engine.model.tokenizer import Tokenizer
from engine.scheduler.request_table import Entry
from engine.server.answers import DONE, Shape, Usage, event
from engine.server.api_keys import Tenant
from engine.server.constraints import Constraints
from engine.server.gateway import Gateway
from engine.server.journal import Terms
from engine.server.limits import NO_LIMITS, Limits
from engine.server.problems import Problem, error_body
from engine.server.schemas import ChatBody, Common, CompletionBody
from engine.server.stops import StopFilter

Result = TypeVar("Result")

GONE_S = 0.1
"""how often a waiting answer looks whether its client is still there"""


class Completions:
    """Turns bodies into requests and tokens into answers."""

    def __init__(
        self,
        gateway: Gateway,
        tokenizer: Tokenizer,
        *,
        model: str,
        max_positions: int,
        vocab_size: int,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._gateway = gateway
        self._tokenizer = tokenizer
        self._model = model
        self._max_positions = max_positions
        self._vocab_size = vocab_size
        self._limits = limits
        self._constraints = Constraints(tokenizer, vocab_size=vocab_size)

    async def accept(self, body: ChatBody | CompletionBody, tenant: Tenant) -> Entry:
        """Check and submit; raises Problem."""
        if body.model not in (self._model, self._model.rsplit("/", 1)[-1]):
            raise Problem(
                404,
                f"The model `{body.model}` does not exist; this server has `{self._model}`.",
                param="model",
                code="model_not_found",
            )
        if not self._gateway.ready:
            raise Problem(503, "No instance is ready yet; try again soon.", retry_after_s=2)
        prompt_ids = await asyncio.to_thread(self._encode, body)
        grammar = await self._constraints.grammar(body)
        sampling = self._sampling(body, len(prompt_ids), grammar)
        chat = isinstance(body, ChatBody)
        request = Request(
            request_id=f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            prompt_ids=tuple(prompt_ids),
            sampling=sampling,
            priority=tenant.priority_of(body.priority),
            tenant=tenant.name,
            cache_salt=body.cache_salt or "",
        )
        known = self._gateway.table.entries.values()
        self._limits.check(request, tenant, known, self._gateway.members, time.monotonic())
        options = body.stream_options
        usage = options is not None and options.include_usage
        return self._gateway.submit(request, Terms(chat, body.stops, usage, body.return_token_ids))

    async def whole(
        self, entry: Entry, is_gone: Callable[[], Awaitable[bool]]
    ) -> dict[str, object]:
        """The whole answer; raises Problem. A client that goes away ends the request."""

        async def collect() -> tuple[int, str]:
            parts = [(number, text) async for number, text in self._texts(entry)]
            return parts[-1][0], "".join(text for _, text in parts)

        with self._gateway.attend(entry.request.request_id):
            number, text = await _unless_gone(collect(), is_gone)
        if entry.error:
            raise self._problem(entry)
        return self._shape(entry).whole(
            text, entry.finish_reason, self._usage(entry), entry.token_ids[:number]
        )

    async def first_token(self, entry: Entry, is_gone: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a stream has something to say; raises Problem if it is refused instead."""

        async def wait() -> None:
            async with aclosing(self._gateway.follow(entry)) as tokens:
                async for _ in tokens:
                    return

        try:
            await _unless_gone(wait(), is_gone)
        except BaseException:
            self._gateway.cancel(entry.request.request_id)
            raise
        if entry.error:
            raise self._problem(entry)

    async def stream(self, entry: Entry, told: int = -1) -> AsyncGenerator[str]:
        """Server-sent events behind number ``told``; who runs it attends the request."""
        name, shape = entry.request.request_id, self._shape(entry)
        if told < 0:
            yield event(shape.chunk(None, first=True), f"{name}:0")
        number = 0
        async with aclosing(self._texts(entry)) as texts:
            async for number, text in texts:
                token_ids = entry.token_ids[number - 1 : number]
                if number > told and (text or (token_ids and shape.prompt_ids is not None)):
                    yield event(shape.chunk(text, token_ids=token_ids), f"{name}:{number}")
        if entry.error:
            yield event(error_body(500, entry.error, code=entry.error_code))
        else:
            if number + 1 > told:
                yield event(shape.chunk(None, entry.finish_reason), f"{name}:{number + 1}")
            if number + 2 > told and self._gateway.terms[name].usage:
                yield event(shape.usage_chunk(self._usage(entry)), f"{name}:{number + 2}")
        yield DONE

    async def _texts(self, entry: Entry) -> AsyncGenerator[tuple[int, str]]:
        """(number, text) as tokens come, the held-back rest last; a stop string ends all."""
        terms = self._gateway.terms[entry.request.request_id]
        stream, stop = self._tokenizer.stream(), StopFilter(terms.stops)
        async with aclosing(self._gateway.follow(entry)) as tokens:
            async for index, token in tokens:
                text = stop.push(stream.push(token))
                yield index + 1, text
                if stop.stopped:
                    self._gateway.finish(entry.request.request_id, "stop")
                    return
        yield len(entry.token_ids) + 1, stop.push(stream.flush()) + stop.flush()

    def _encode(self, body: ChatBody | CompletionBody) -> list[int]:
        if isinstance(body, CompletionBody):
            ids = self._prompt_ids(body.prompt)
            if not ids:
                raise Problem(400, "The prompt is empty.", param="prompt")
            bad = next((token for token in ids if token >= self._vocab_size), None)
            if bad is not None:
                size = self._vocab_size
                raise Problem(400, f"Token id {bad} is not below {size}.", param="prompt")
            return ids
        if self._tokenizer.template is None:
            raise Problem(400, "This model has no chat template; use /v1/completions.")
        try:
            return self._tokenizer.chat([message.plain() for message in body.messages])
        except ValueError as error:
            raise Problem(400, f"The chat template refuses: {error}", param="messages") from error

    def _prompt_ids(self, prompt: str | list[int] | list[str]) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt)
        ids: list[int] = []
        for part in prompt:  # token ids, or a list of one text
            ids += self._tokenizer.encode(part) if isinstance(part, str) else [part]
        return ids

    def _sampling(self, body: Common, num_prompt: int, grammar: str) -> SamplingParams:
        room = self._max_positions - num_prompt
        if room < 1:
            raise Problem(
                400,
                f"This model's maximum context length is {self._max_positions} tokens. However, "
                f"your prompt has {num_prompt} tokens and needs room for an answer.",
                code="context_length_exceeded",
            )
        default = 16 if isinstance(body, CompletionBody) else room
        wanted = body.max_completion_tokens or body.max_tokens or default
        temperature = 1.0 if body.temperature is None else body.temperature
        seed = secrets.randbits(63) if body.seed is None else body.seed % (1 << 63)
        return SamplingParams(
            max_tokens=min(wanted, room),
            temperature=temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=max(body.top_k or 0, 0),
            seed=seed % (1 << 48),
            ignore_eos=body.ignore_eos,
            grammar=grammar,
        )

    def _usage(self, entry: Entry) -> Usage:
        return Usage(len(entry.request.prompt_ids), len(entry.token_ids), entry.num_reused)

    def _problem(self, entry: Entry) -> Problem:
        return Problem(400, entry.error, code=entry.error_code)

    def _shape(self, entry: Entry) -> Shape:
        name = entry.request.request_id
        age_s = time.monotonic() - entry.arrived
        terms, prompt_ids = self._gateway.terms[name], entry.request.prompt_ids
        return Shape(
            name,
            self._model,
            int(time.time() - age_s),
            terms.chat,
            prompt_ids if terms.token_ids else None,
        )


async def _unless_gone(
    work: Coroutine[None, None, Result], is_gone: Callable[[], Awaitable[bool]]
) -> Result:
    """The work's result; Problem as soon as the client is not there any more."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=GONE_S))[0]:
            if await is_gone():
                raise Problem(499, "The client has gone.")
        return task.result()
    finally:
        task.cancel()
