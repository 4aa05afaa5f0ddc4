"""Journal: what a gateway has accepted and taken, so that its successor can go on.

An append-only file of msgpack records. A torn last record, from a process that died while writing,
is dropped. The reader's first act is to write the records that still matter to a new file.

Where nothing can be written, as on a full disk, requests go on and the journal is written anew when
that can be: until then nothing is added, since what comes behind a torn record cannot be read.
"""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from engine.core import Request, Score
from engine.scheduler.entry import Entry


class Terms(Struct, frozen=True, array_like=True):
    """How a client wants its answer told; the steps need not know."""

    chat: bool = False
    stops: list[str] = []
    usage: bool = False
    token_ids: bool = False
    index: int = 0
    choices: int = 1
    """which of how many choices of the same answer it is; each is a request"""
    n: int = 1
    """choices of each prompt; choice i of prompt p has the index p * n + i"""
    logprobs: int | None = None
    """so many of the likeliest tokens are told with each; None: no logprobs"""
    prompt_logprobs: int | None = None
    echo: str | None = None
    """the prompt's text, which begins the answer"""
    no_answer: bool = False
    """only the prompt is wanted: the token that comes is not told"""
    keep_stop: bool = False
    token_names: bool = False
    """tokens are called by their ids"""
    tools: list[str] = []
    """names of those that the answer may call"""
    all_tokens: bool = False
    """also those that are no text are told as text"""


class Accepted(Struct, tag=True, frozen=True, array_like=True):
    """A request that was promised an answer."""

    request: Request
    terms: Terms


class Taken(Struct, tag=True, frozen=True, array_like=True):
    """Tokens of an answer, the first of them number ``index``."""

    request_id: str
    index: int
    token_ids: list[int]
    finish_reason: str = ""
    """of the last ones: one record, so that no answer is torn from its end"""
    scores: list[Score] = []


class Scored(Struct, tag=True, frozen=True, array_like=True):
    """Scores of a prompt, the first of them number ``index``."""

    request_id: str
    index: int
    scores: list[Score]


class Ended(Struct, tag=True, frozen=True, array_like=True):
    """Nothing more will come for this request."""

    request_id: str
    finish_reason: str = ""
    error: str = ""
    error_code: str = ""


log = logging.getLogger(__name__)

Record = Accepted | Taken | Scored | Ended

LENGTH_BYTES = 4
LONG_BYTES = 8 << 20
"""a journal grows to this, or to twice what was of use in it, before it is written anew"""
RETRY_S = 5.0
"""how often one that could not be written is tried again"""
KEEP_ENDED = 256
"""complete answers that are kept for clients who have not heard their end"""


class Left(NamedTuple):
    """A request that a gateway accepted, and what it had got of the answer."""

    request: Request
    terms: Terms
    token_ids: list[int]
    scores: list[Score]
    prompt_scores: list[Score]
    end: Ended | None = None
    """None while it was under way"""


def left_of(entry: Entry, terms: Terms) -> Left:
    """What a successor would find of it."""
    name, end = entry.request.request_id, None
    if entry.done:
        end = Ended(name, entry.finish_reason, entry.error, entry.error_code)
    return Left(entry.request, terms, entry.token_ids, entry.scores, entry.prompt_scores, end)


class Journal:
    """Appends records; ``open`` gives what an earlier gateway left."""

    def __init__(self, path: Path, *, is_strict: bool = False) -> None:
        """A strict one raises OSError where it cannot be written."""
        self._path = path
        self._encoder = msgspec.msgpack.Encoder()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._num_bytes = 0
        self._limit = LONG_BYTES
        self.fault = ""
        """why nothing is written at present"""
        self._retry_at = 0.0
        self._is_strict = is_strict

    @staticmethod
    def open(path: Path) -> tuple["Journal", list[Left]]:
        """The journal, and what an earlier one left: all that is unfinished, the latest ended."""
        found: dict[str, Left] = {}
        ended: dict[str, Left] = {}
        for record in _read(path):
            match record:
                case Accepted():
                    name = record.request.request_id
                    found[name] = Left(record.request, record.terms, [], [], [])
                    ended.pop(name, None)
                case Taken() if record.request_id in found:
                    found[record.request_id].token_ids[record.index :] = record.token_ids
                    found[record.request_id].scores[record.index :] = record.scores
                    if record.finish_reason:
                        end = Ended(record.request_id, record.finish_reason)
                        ended[record.request_id] = found.pop(record.request_id)._replace(end=end)
                case Scored() if record.request_id in found:
                    found[record.request_id].prompt_scores[record.index :] = record.scores
                case Ended() if record.request_id in found:
                    ended[record.request_id] = found.pop(record.request_id)._replace(end=record)
        all_left = [*list(ended.values())[-KEEP_ENDED:], *found.values()]
        journal = Journal(path)
        if fault := journal.rewrite(all_left):
            journal._stop(fault)  # the old one's last record may be torn
        return journal, all_left

    @property
    def is_long(self) -> bool:
        """Most of it is of no use any more, or lacks what could not be written: ``rewrite`` it."""
        if self.fault:
            return time.monotonic() >= self._retry_at
        return self._num_bytes > self._limit

    def rewrite(self, all_left: Iterable[Left]) -> str:
        """Begin anew with what is still of use; why that cannot be, or nothing. Who dies meanwhile
        leaves the old one whole."""
        partial = self._path.with_suffix(".new")
        try:
            partial.unlink(missing_ok=True)
            fresh = self._written_to(partial, all_left)
            os.replace(partial, self._path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            self._limit, self._retry_at = self._num_bytes + LONG_BYTES, time.monotonic() + RETRY_S
            return error.strerror or str(error)
        if self.fault:
            log.warning("the journal %s is written again", self._path)
        self._file.close()
        self._file, self._num_bytes, self.fault = fresh._file, fresh._num_bytes, ""
        self._limit = max(LONG_BYTES, 2 * self._num_bytes)
        return ""

    @staticmethod
    def _written_to(path: Path, all_left: Iterable[Left]) -> "Journal":
        """Raises OSError."""
        fresh = Journal(path, is_strict=True)
        try:
            for left in all_left:
                fresh.accepted(left.request, left.terms)
                name = left.request.request_id
                fresh.scored(name, 0, left.prompt_scores)
                fresh.taken(name, 0, left.token_ids, scores=left.scores)
                if left.end is not None:
                    fresh.ended(left.end)
        except OSError:
            fresh.close()
            raise
        return fresh

    def accepted(self, request: Request, terms: Terms) -> None:
        self._append(Accepted(request, terms))

    def taken(
        self,
        request_id: str,
        index: int,
        token_ids: list[int],
        finish_reason: str = "",
        scores: list[Score] | None = None,
    ) -> None:
        self._append(Taken(request_id, index, token_ids, finish_reason, scores or []))

    def scored(self, request_id: str, index: int, scores: list[Score]) -> None:
        if scores:
            self._append(Scored(request_id, index, scores))

    def ended(self, end: Ended) -> None:
        self._append(end)

    def close(self) -> None:
        self._file.close()

    def _append(self, record: Record) -> None:
        if self.fault:
            return
        data = self._encoder.encode(record)
        data = len(data).to_bytes(LENGTH_BYTES, "little") + data
        try:
            num_written = self._file.write(data)
            self._num_bytes += num_written
            if num_written < len(data):
                raise OSError("no room for a whole record")
        except OSError as error:
            if self._is_strict:
                raise
            self._stop(error.strerror or str(error))

    def _stop(self, fault: str) -> None:
        self.fault, self._retry_at = fault, time.monotonic() + RETRY_S
        log.warning(
            "the journal %s cannot be written (%s): requests go on, but a restarted gateway would "
            "not know of them; it is tried again every %g s",
            self._path,
            fault,
            RETRY_S,
        )


def _read(path: Path) -> Iterable[Record]:
    decoder = msgspec.msgpack.Decoder(Accepted | Taken | Scored | Ended)
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + LENGTH_BYTES <= len(data):
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "little")
        if end > len(data):
            return
        try:
            yield decoder.decode(data[at + LENGTH_BYTES : end])
        except msgspec.DecodeError:
            return
        at = end
