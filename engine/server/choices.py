"""Choices: the requests that answer one body, and what comes of them at the same time."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from engine.scheduler.entry import Entry
from engine.server.journal import Terms

Result = TypeVar("Result")

BETWEEN = "/"
"""a body's id and the number of the choice, where there are several; no client's id has one"""
MAX_RESUMED = 16
"""choices of an answer whose stream can be resumed: each event's id says how far each has come"""
NUMBERS = re.compile(f"(-1|[0-9]{{1,12}})(,(-1|[0-9]{{1,12}})){{0,{MAX_RESUMED - 1}}}")


@dataclass(frozen=True, slots=True)
class Choices:
    request_id: str
    """what the client knows the answer by"""
    entries: Sequence[Entry]
    """choice i of prompt p is number p * n + i"""
    n: int = 1
    """of each prompt"""

    @property
    def names(self) -> list[str]:
        return [entry.request.request_id for entry in self.entries]


def is_resumable(num_choices: int) -> bool:
    return num_choices <= MAX_RESUMED


def event_id(request_id: str, numbers: Sequence[int]) -> str:
    """What a client brings back as Last-Event-ID: how far each choice had been told."""
    return f"{request_id}:{','.join(map(str, numbers))}"


def told_of(last_event_id: str) -> tuple[str, list[int]]:
    """The request's id and the numbers of an ``event_id``; no numbers where it is none."""
    name, _, numbers = last_event_id.rpartition(":")
    if not NUMBERS.fullmatch(numbers):
        return name, []
    return name, [int(number) for number in numbers.split(",")]


def name_of(request_id: str, index: int, num_choices: int) -> str:
    return request_id if num_choices == 1 else f"{request_id}{BETWEEN}{index}"


def choices_of(
    request_id: str, entries: Mapping[str, Entry], terms: Mapping[str, Terms]
) -> Choices | None:
    """What was last accepted under this id; None where not all of it is there (any more)."""
    names = (request_id, name_of(request_id, 0, 2))
    firsts = [entries[name] for name in names if name in entries]
    if not firsts or BETWEEN in request_id:
        return None
    first = max(firsts, key=lambda entry: entry.arrived)
    wanted = terms[first.request.request_id]
    of_all = [name_of(request_id, index, wanted.choices) for index in range(wanted.choices)]
    if any(name not in entries for name in of_all):
        return None
    return Choices(request_id, [entries[name] for name in of_all], wanted.n)


async def all_of(work: Sequence[Awaitable[Result]]) -> list[Result]:
    """Results in order; at the first error the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing more comes of a stream."""

    error: Exception | None = None


async def merged(streams: Sequence[AsyncGenerator[Result]]) -> AsyncGenerator[Result]:
    """What all of them give, as it comes; of one stream in its order."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for one in stream:
                yield one
        return
    queue: asyncio.Queue[Result | _End] = asyncio.Queue(maxsize=len(streams))

    async def read(stream: AsyncGenerator[Result]) -> None:
        try:
            async with aclosing(stream):
                async for one in stream:
                    await queue.put(one)
        except Exception as error:  # whatever it is, who reads all of them gets it
            await queue.put(_End(error))
        else:
            await queue.put(_End())

    tasks = [asyncio.create_task(read(stream)) for stream in streams]
    try:
        left = len(streams)
        while left:
            some = await queue.get()
            if not isinstance(some, _End):
                yield some
            elif some.error is not None:
                raise some.error
            else:
                left -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
