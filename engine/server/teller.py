"""Teller: from requests that run to an answer, whole or streamed. Knows HTTP's events, no routes.

A stream's events carry ``id: REQUEST:NUMBER``: 0 for the beginning, then the number of tokens told,
then one each for held-back text, the end and the usage. No two share a number, so a client that
comes back with it as Last-Event-ID gets exactly what follows. Who wants token ids or logprobs gets
an event for each token, even without text; else those that have none are left out. The events of
several choices come as they come, and their ids carry a number for each choice: how far it has
been told by then, -1 before its beginning.
"""

import asyncio
import operator
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, TypeVar

from engine.core import Score
from engine.model.token_names import TokenNames
from engine.model.tokenizer import Tokenizer
from engine.scheduler.entry import Entry
from engine.server.answer_text import AnswerText
from engine.server.answers import DONE, Piece, Shape, Usage, event, finish_reason
from engine.server.choices import BETWEEN, Choices, all_of, event_id, is_resumable, merged
from engine.server.gateway import Gateway
from engine.server.journal import Terms
from engine.server.logprobs import Logprobs
from engine.server.problems import SHUTTING_DOWN, Problem, error_body
from engine.server.tools.formats import ToolFormat
from engine.server.tools.parser import AllContent, CallParser, Said

Result = TypeVar("Result")

GONE_S = 0.1
"""how often a waiting answer looks whether its client is still there"""


class Teller:
    def __init__(
        self,
        gateway: Gateway,
        tokenizer: Tokenizer,
        *,
        model: str,
        eos_ids: Collection[int] = (),
        tool_format: ToolFormat | None = None,
    ) -> None:
        self._gateway = gateway
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer.backend)
        self._model = model
        self._eos_ids = eos_ids
        self._tool_format = tool_format

    @contextmanager
    def attend(self, choices: Choices) -> Iterator[None]:
        """While the client is told; when it leaves, all of its requests end."""
        with ExitStack() as stack:
            for name in choices.names:
                stack.enter_context(self._gateway.attend(name))
            yield

    async def whole(
        self, choices: Choices, is_gone: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any]:
        """The whole answer; raises Problem. A client that goes away ends the requests."""
        with self.attend(choices):
            work = all_of([self._whole(entry) for entry in choices.entries])
            bodies = await _unless_gone(work, is_gone)
        found = [choice for body in bodies for choice in body["choices"]]
        return {**bodies[0], "choices": found, "usage": self._usage(choices).body()}

    async def first_token(self, choices: Choices, is_gone: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a stream has something to say; raises Problem if it is refused instead."""

        async def any_begins() -> None:
            tasks = [asyncio.ensure_future(self._begins(entry)) for entry in choices.entries]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()

        try:
            await _unless_gone(any_begins(), is_gone)
            for entry in choices.entries:
                if entry.error:
                    raise self._problem(entry)
        except BaseException:
            for name in choices.names:
                self._gateway.cancel(name)
            raise

    async def stream(self, choices: Choices, told: Sequence[int] = ()) -> AsyncGenerator[str]:
        """Server-sent events behind the numbers ``told``; who runs it attends the requests."""
        entries, name = choices.entries, choices.request_id
        has_ids = is_resumable(len(entries))
        told = told or [-1] * len(entries)
        numbers, reached = list(told), [0] * len(entries)
        streams = [
            self._chunks(*one) for one in zip(range(len(entries)), entries, told, strict=True)
        ]
        async with aclosing(merged(streams)) as chunks:
            async for place, number, body in chunks:
                reached[place], numbers[place] = number, max(numbers[place], number)
                is_error = body is not None and "error" in body
                if body is not None:
                    yield event(body, event_id(name, numbers) if has_ids and not is_error else "")
                if is_error:
                    break
            else:
                ends = [number + 1 for number in reached]
                if self._gateway.terms[choices.names[0]].usage and any(
                    map(operator.gt, ends, told)
                ):
                    body = self._shape(entries[0]).usage_chunk(self._usage(choices))
                    yield event(body, event_id(name, ends) if has_ids else "")
        yield DONE

    async def _chunks(
        self, place: int, entry: Entry, told: int
    ) -> AsyncGenerator[tuple[int, int, dict[str, Any] | None]]:
        """(place, number, chunk) of the choice at a place among those that are told; the last one
        always, as None if it was told before."""
        shape, terms = self._shape(entry), self._gateway.terms[entry.request.request_id]
        wants_all = shape.prompt_ids is not None or terms.logprobs is not None
        if told < 0:
            if terms.echo is not None:
                await self._begins(entry)
            logprobs = self._logprobs(entry, [], echo=terms.echo is not None)
            yield place, 0, shape.chunk(Piece(text=terms.echo or "", logprobs=logprobs), first=True)
        text, number = self._text(entry), 0
        is_calling = False
        async with aclosing(self._said(entry, text)) as pieces:
            async for number, said in pieces:
                is_calling |= bool(said.calls)
                offsets = text.offsets[number - 1 : number]
                if number > told and (said or (offsets and wants_all)):
                    token_ids = entry.token_ids[number - 1 : number] if offsets else []
                    logprobs = self._logprobs(entry, offsets, first=number - 1)
                    piece = Piece(
                        text=said.content, calls=said.calls, token_ids=token_ids, logprobs=logprobs
                    )
                    yield place, number, shape.chunk(piece)
        if entry.error:
            yield place, number, error_body(500, entry.error, code=entry.error_code)
        else:
            reason = finish_reason(entry.finish_reason, is_calling)
            end = Piece(finish_reason=reason, stop_reason=text.stop_reason)
            yield place, number + 1, shape.chunk(end) if number + 1 > told else None

    async def _whole(self, entry: Entry) -> dict[str, Any]:
        """The answer with one choice. Raises Problem."""
        terms, text = self._gateway.terms[entry.request.request_id], self._text(entry)
        said = sum([said async for _, said in self._said(entry, text)], Said())
        if entry.error:
            raise self._problem(entry)
        piece = Piece(
            text=(terms.echo or "") + said.content,
            calls=said.calls,
            finish_reason=finish_reason(entry.finish_reason, bool(said.calls)),
            stop_reason=text.stop_reason,
            token_ids=entry.token_ids[: len(text.offsets)],
            logprobs=self._logprobs(entry, text.offsets, echo=True),
        )
        if terms.prompt_logprobs is None:
            return self._shape(entry).whole(piece)
        ids, scores = entry.request.prompt_ids, entry.prompt_scores
        shown = self._shaper(terms).prompt(ids, scores, terms.prompt_logprobs)
        return self._shape(entry).whole(piece, shown)

    async def _said(self, entry: Entry, text: AnswerText) -> AsyncGenerator[tuple[int, Said]]:
        """(number, news) as tokens come, the held-back rest last; a stop string ends all."""
        name = entry.request.request_id
        terms = self._gateway.terms[name]
        form = self._tool_format if terms.tools else None
        parser = CallParser(form.marks, terms.tools) if form else AllContent()
        async with aclosing(self._gateway.follow(entry)) as tokens:
            async for index, token in tokens:
                if terms.no_answer:
                    continue
                said = parser.push(text.push(token))
                yield index + 1, said + parser.flush() if text.stopped else said
                if text.stopped:
                    self._gateway.finish(name, "stop")
                    return
        yield len(text.offsets) + 1, parser.push(text.flush()) + parser.flush()

    async def _begins(self, entry: Entry) -> None:
        """Until the first token is there, and with it all of the prompt's Scores."""
        async with aclosing(self._gateway.follow(entry)) as tokens:
            async for _ in tokens:
                return

    def _logprobs(
        self, entry: Entry, offsets: Sequence[int], *, first: int = 0, echo: bool = False
    ) -> dict[str, Any] | None:
        """Of the tokens from number ``first`` on that begin at ``offsets``; after the echo's."""
        terms = self._gateway.terms[entry.request.request_id]
        ids: list[int] = entry.token_ids[first : first + len(offsets)]
        scores = entry.scores[first : first + len(offsets)]
        if terms.logprobs is None or not (ids or echo):
            return None
        if terms.chat:
            return self._shaper(terms).chat(ids, scores, terms.logprobs)
        before: list[Score | None] = []
        if echo and terms.echo is not None:
            ids = [*entry.request.prompt_ids, *ids]
            before = [None, *entry.prompt_scores]
            offsets = [*self._prompt_offsets(entry), *offsets]
        return self._shaper(terms).completion(ids, [*before, *scores], offsets, terms.logprobs)

    def _prompt_offsets(self, entry: Entry) -> list[int]:
        stream, offsets, length = self._tokenizer.stream(), [], 0
        for token in entry.request.prompt_ids:
            offsets.append(length)
            length += len(stream.push(token))
        return offsets

    def _text(self, entry: Entry) -> AnswerText:
        terms = self._gateway.terms[entry.request.request_id]
        form = self._tool_format if terms.tools else None
        keep: Collection[int] = self._tokenizer.special_ids if terms.all_tokens else ()
        if form and not keep:
            keep = form.marker_ids(self._tokenizer.backend.token_to_id)
        return AnswerText(self._tokenizer, entry, terms, self._eos_ids, keep)

    def _shaper(self, terms: Terms) -> Logprobs:
        return Logprobs(self._names, as_ids=terms.token_names)

    def _usage(self, choices: Choices) -> Usage:
        is_told = not self._gateway.terms[choices.names[0]].no_answer
        num_tokens = sum(len(entry.token_ids) for entry in choices.entries)
        prompts = choices.entries[:: choices.n]
        return Usage(
            sum(len(entry.request.prompt_ids) for entry in prompts),
            num_tokens if is_told else 0,
            sum(entry.num_reused for entry in prompts),
        )

    def _problem(self, entry: Entry) -> Problem:
        status = 503 if entry.error_code == SHUTTING_DOWN else 400
        retry_after_s = 1 if status == 503 else None
        return Problem(status, entry.error, code=entry.error_code, retry_after_s=retry_after_s)

    def _shape(self, entry: Entry) -> Shape:
        name = entry.request.request_id
        age_s = time.monotonic() - entry.arrived
        terms, prompt_ids = self._gateway.terms[name], entry.request.prompt_ids
        return Shape(
            name.partition(BETWEEN)[0],
            self._model,
            int(time.time() - age_s),
            terms.chat,
            prompt_ids if terms.token_ids else None,
            terms.index,
            self._tool_format,
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
