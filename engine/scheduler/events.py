"""Event log: what a Scheduler heard, in order, with hashes of its state: enough to run it again.

Frames of msgpack behind their length: a ``Header``, then ``[input, arguments]``, and every now and
then ``["hash", [state]]``. A log whose writer was killed ends in the middle of a frame, or early.
"""

import functools
import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.core import BlockLayout, Plan, Request
from engine.errors import ConfigError
from engine.protocol import VERSION, BorrowOffer, Message
from engine.scheduler.effects import Effect
from engine.scheduler.scheduler import Scheduler

HASH_EVERY = 64
"""inputs; as many are lost at most when the process is killed"""
HASH = "hash"
INPUTS: dict[str, tuple[Any, ...]] = {
    "add": (Request,),
    "abort": (str,),
    "refuse": (int, str),
    "on_message": (int, Message, float),
    "on_offer": (BorrowOffer, float),
    "on_advice": (Message, float),
    "on_moved": (int, int),
    "on_fetched": (int, int, float),
    "on_lost": (int, float),
    "look": (float,),
    "schedule": (float,),
    "commit": (Plan, dict[int, int], frozenset[int]),
    "timed": (Plan, float, float),
    "load": (float,),
}
"""method -> types of its arguments; a Plan is always the last one that was made, and not written"""


class Header(msgspec.Struct, frozen=True):
    """What a Scheduler is made of."""

    scheduler: Scheduler.Config
    instance: int
    host: str
    layout: BlockLayout
    placement: str
    options: dict[str, Any]
    num_blocks: int
    max_positions: int
    eos_ids: frozenset[int]
    epoch: int = 0
    version: int = VERSION


class EventLog:
    """Appends frames to a new file. Raises ConfigError when there can be none."""

    def __init__(self, path: Path, header: Header) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except OSError as error:
            raise ConfigError(f"cluster.event_log: {path}: {error.strerror}") from error
        self._encoder = msgspec.msgpack.Encoder()
        self._append(header)

    def write(self, name: str, arguments: Sequence[Any]) -> None:
        self._append([name, [None if isinstance(one, Plan) else one for one in arguments]])
        if name == HASH:
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _append(self, frame: Any) -> None:
        data = self._encoder.encode(frame)
        self._file.write(struct.pack("<I", len(data)) + data)


def read_events(path: str) -> tuple[Header, Iterator[tuple[str, list[Any]]]]:
    """Raises ConfigError when the file is no event log of this version."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"simulate: replay={path}: {error.strerror}") from error
    frames = _frames(data)
    try:
        header = msgspec.msgpack.decode(next(frames, b""), type=Header)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"simulate: replay={path} is no event log: {error}") from error
    if header.version != VERSION:
        raise ConfigError(
            f"simulate: replay={path} was written by protocol {header.version}; this is {VERSION}"
        )
    return header, (tuple(msgspec.msgpack.decode(frame)) for frame in frames)


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 4 <= len(data):
        [size] = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            return  # the writer was killed here
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


class StateHash:
    """Of all plans and effects so far, and of the sequences as they stand."""

    def __init__(self) -> None:
        self._plans = hashlib.blake2b(digest_size=16)
        self._effects = hashlib.blake2b(digest_size=16)

    def on_plan(self, plan: Plan | None) -> None:
        if plan is not None:
            spans = [(s.sequence, s.first_position, s.num_rows, s.table) for s in plan.spans]
            self._plans.update(repr((plan.step, spans, plan.sampled)).encode())

    def on_effects(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._effects.update(repr(effect).encode())

    def of(self, scheduler: Scheduler) -> bytes:
        state = [
            (one.number, one.state, one.token_ids, one.table, sorted(one.returning), one.holes)
            for one in scheduler.roster.all()
        ]
        store = scheduler.holdings.store
        text = repr((state, store.num_free, store.num_used, len(scheduler.debts)))
        parts = self._plans.digest() + self._effects.digest() + text.encode()
        return hashlib.blake2b(parts, digest_size=16).digest()


class RecordedScheduler(Scheduler):
    """Writes each input down before it acts on it."""

    def __init__(self, log: EventLog, config: Scheduler.Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        self._log = log
        self._hash = StateHash()
        self._num_heard = 0

    def take_effects(self) -> list[Effect]:
        effects = super().take_effects()
        self._hash.on_effects(effects)
        if self._num_heard >= HASH_EVERY:  # nothing is left undone, as in a replay
            self._num_heard = 0
            self._log.write(HASH, [self._hash.of(self)])
        return effects


def _recorded(name: str) -> Callable[..., Any]:
    method = getattr(Scheduler, name)

    @functools.wraps(method)
    def call(self: RecordedScheduler, *arguments: Any) -> Any:
        self._log.write(name, arguments)
        self._num_heard += 1
        result = method(self, *arguments)
        if name == "schedule":
            self._hash.on_plan(result)
        return result

    return call


for _name in INPUTS:
    setattr(RecordedScheduler, _name, _recorded(_name))
