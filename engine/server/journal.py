"""Journal: what a gateway has accepted and taken, so that its successor can go on.

An append-only file of msgpack records. A torn last record, from a process that died while writing,
is dropped. The reader's first act is to write the records that still matter to a new file.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from engine.core import Request, SamplingParams


class Terms(Struct, frozen=True, array_like=True):
    """How a client wants its answer told; the steps need not know."""

    chat: bool = False
    stops: list[str] = []
    usage: bool = False


class Accepted(Struct, tag=True, frozen=True, array_like=True):
    """A request that was promised an answer."""

    request_id: str
    prompt_ids: list[int]
    sampling: SamplingParams
    terms: Terms


class Taken(Struct, tag=True, frozen=True, array_like=True):
    """Tokens of an answer, the first of them number ``index``."""

    request_id: str
    index: int
    token_ids: list[int]


class Ended(Struct, tag=True, frozen=True, array_like=True):
    """Nothing more will come for this request."""

    request_id: str


Record = Accepted | Taken | Ended

LENGTH_BYTES = 4


class Unfinished(NamedTuple):
    """A request that a gateway accepted and did not finish, with the tokens it had got."""

    request: Request
    terms: Terms
    token_ids: list[int]


class Journal:
    """Appends records; ``open`` gives what an earlier gateway left unfinished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoder = msgspec.msgpack.Encoder()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def open(path: Path) -> tuple["Journal", list[Unfinished]]:
        """The journal, and what an earlier one left unfinished, oldest first."""
        unfinished: dict[str, Unfinished] = {}
        for record in _read(path):
            match record:
                case Accepted():
                    request = Request(
                        request_id=record.request_id,
                        prompt_ids=tuple(record.prompt_ids),
                        sampling=record.sampling,
                    )
                    unfinished[record.request_id] = Unfinished(request, record.terms, [])
                case Taken() if record.request_id in unfinished:
                    known = unfinished[record.request_id].token_ids
                    known[record.index :] = record.token_ids
                case Ended():
                    unfinished.pop(record.request_id, None)
        partial = path.with_suffix(".new")
        partial.unlink(missing_ok=True)
        fresh = Journal(partial)
        for left in unfinished.values():
            fresh.accepted(left.request, left.terms)
            fresh.taken(left.request.request_id, 0, left.token_ids)
        os.replace(partial, path)
        return fresh, list(unfinished.values())

    def accepted(self, request: Request, terms: Terms) -> None:
        prompt_ids = list(request.prompt_ids)
        self._append(Accepted(request.request_id, prompt_ids, request.sampling, terms))

    def taken(self, request_id: str, index: int, token_ids: list[int]) -> None:
        self._append(Taken(request_id, index, token_ids))

    def ended(self, request_id: str) -> None:
        self._append(Ended(request_id))

    def close(self) -> None:
        self._file.close()

    def _append(self, record: Record) -> None:
        data = self._encoder.encode(record)
        self._file.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)


def _read(path: Path) -> Iterable[Record]:
    decoder = msgspec.msgpack.Decoder(Accepted | Taken | Ended)
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
