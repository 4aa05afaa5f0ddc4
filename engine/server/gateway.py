"""Gateway: pumps the request table between HTTP handlers and the cluster's control sockets.

One asyncio loop. It decides nothing: routing, attempts and exactly-once are the table's.
"""

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

from engine.comm.control import ControlClient
from engine.core import Request
from engine.errors import PeerLost
from engine.protocol import (
    FROM_PLANNER,
    FROM_STEP,
    Explain,
    Member,
    Members,
    Message,
    View,
)
from engine.scheduler.directory import MemberList
from engine.scheduler.entry import Entry
from engine.scheduler.request_table import RequestTable
from engine.server.choices import is_resumable
from engine.server.history import History
from engine.server.journal import KEEP_ENDED, Ended, Journal, Left, Terms, left_of
from engine.server.overview import overview
from engine.server.rates import Rates, mean_ttft_s
from engine.server.roll import Roll
from engine.server.views import Views

LOOK_S = 0.25
"""how often the planner is asked who is there"""
TICK_S = 0.02
"""ZMQ's descriptor tells of edges only; look again after so long at the latest"""
COME_BACK_S = 60.0
"""how long a restarted gateway runs a request whose client does not come back"""


class Gateway:
    """Submit requests, follow their tokens."""

    def __init__(
        self,
        planner: str,
        *,
        key: bytes = b"",
        journal: Path,
        block_tokens: int,
        on_end: Callable[[Entry, Terms], object] = lambda *_: None,
        on_report: Callable[[Entry], object] = lambda _: None,
        only: int | None = None,
    ) -> None:
        """``only`` limits it to one instance; ``on_end`` sees each request once, at its end;
        ``on_report`` when a step has told of its life there."""
        self._planner = ControlClient(planner, FROM_PLANNER, key)
        self._key, self._only = key, only
        self._steps: dict[str, ControlClient] = {}
        self._gone: list[ControlClient] = []
        """closed when ``run`` is awake: it listens to their descriptors, which others are given"""
        self._news: dict[str, asyncio.Event] = {}
        self._on_end, self._on_report = on_end, on_report
        self.table = RequestTable(
            block_tokens=block_tokens, life=secrets.token_hex(4), stays=only is not None
        )
        self.terms: dict[str, Terms] = {}
        self.members: list[Member] = []
        self.views = Views(self._to_planner)
        self.rates = Rates()
        self.history = History(time.monotonic(), time.time())
        self.closes_at: float | None = None  # it takes nothing new, and ends what it has by then
        self.is_over = False  # all has ended, so streams that never do by themselves must
        self._directory, self._roll = MemberList(), Roll()
        self._journal, left = Journal.open(journal)
        self._written: dict[str, int] = {}
        self._scored: Counter[str] = Counter()
        """tokens and scores of the prompt that are in the journal"""
        self._attending: Counter[str] = Counter()
        self._expected: dict[str, float] = {}
        """until when clients of an earlier gateway may come back"""
        now = time.monotonic()
        for one in left:
            name, end = one.request.request_id, one.end
            self.terms[name] = one.terms
            if end is None and not is_resumable(one.terms.choices):  # nobody can come back
                end = Ended(name, "abort")
                self._journal.ended(end)
            heard = (one.token_ids, one.scores, one.prompt_scores)
            if end is not None:
                reason, error, code = end.finish_reason, end.error, end.error_code
                self.table.keep(
                    one.request, now, *heard, finish_reason=reason, error=error, error_code=code
                )
            else:
                self._written[name], self._scored[name] = len(heard[0]), len(heard[2])
                self._expected[name] = now + COME_BACK_S
                self.table.add(one.request, now, *heard)

    @property
    def ready(self) -> bool:
        return any(member.step_address for member in self.members)

    async def run(self) -> None:
        """Until cancelled: ask the planner, send what is to be sent, take what came."""
        next_look = 0.0
        while True:
            now = time.monotonic()
            if now >= next_look:
                next_look = now + LOOK_S
                self._to_planner(self._directory.query())
                self.rates.note(self.table.pace.num_tokens, now)
            self._pump(now)
            await self._sleep()
            while self._gone:
                self._gone.pop().close()

    def _to_planner(self, message: Message) -> None:
        with contextlib.suppress(PeerLost):
            self._planner.send(message)

    async def overview(self) -> dict[str, Any]:
        """See ``GET /cluster``."""
        view, now = await self.views.look(), time.monotonic()
        rates = {
            "output_tokens_per_s": round(self.rates.output_tokens_per_s(), 3),
            "ttft_s": mean_ttft_s(self.table.entries.values(), now),
        }
        shown = overview(self.members, view, self.table.entries.values(), now)
        return {"block_tokens": self.table.block_tokens, **shown, "rates": rates}

    def now(self) -> float:
        """The clock of its entries."""
        return time.monotonic()

    def ask_life(self, entry: Entry) -> None:
        """Ask the entry's step how the request fares; the answer comes to its last attempt."""
        if entry.address in self._steps:
            with contextlib.suppress(PeerLost):
                self._steps[entry.address].send(Explain(entry.attempt_id))

    def submit(self, request: Request, terms: Terms) -> Entry:
        """Accept a request; from here on it is answered, whatever is restarted."""
        self._journal.accepted(request, terms)
        self.terms[request.request_id] = terms
        self._written[request.request_id] = 0
        entry = self.table.add(request, time.monotonic())
        self._pump(time.monotonic())
        return entry

    @contextlib.contextmanager
    def attend(self, request_id: str) -> Iterator[None]:
        """While somebody is told the answer; when the last one leaves, the request ends."""
        self._expected.pop(request_id, None)
        self._attending[request_id] += 1
        try:
            yield
        finally:
            self._attending[request_id] -= 1
            if not self._attending[request_id]:
                del self._attending[request_id]
                self.cancel(request_id)

    def is_busy(self, request_id: str) -> bool:
        """A request of this id runs, or somebody is still told its answer."""
        entry = self.table.entries.get(request_id)
        return (entry is not None and not entry.done) or bool(self._attending[request_id])

    def cancel(self, request_id: str) -> None:
        self.table.cancel(request_id, time.monotonic())
        self._pump(time.monotonic())

    def fail(self, request_id: str, error: str, code: str) -> None:
        self.table.fail(request_id, error, code, time.monotonic())
        self._pump(time.monotonic())

    def finish(self, request_id: str, reason: str) -> None:
        self.table.finish(request_id, reason, time.monotonic())
        self._pump(time.monotonic())

    async def follow(self, entry: Entry, start: int = 0) -> AsyncGenerator[tuple[int, int]]:
        """(index, token) from ``start`` on, as they come, until the request is done."""
        name = entry.request.request_id
        at = start
        while True:
            news = self._news.setdefault(name, asyncio.Event())
            news.clear()
            while at < len(entry.token_ids):
                yield at, entry.token_ids[at]
                at += 1
            if entry.done:
                self._news.pop(name, None)
                return
            await news.wait()

    def _pump(self, now: float) -> None:
        for message in self._planner.receive(0.0):
            if isinstance(message, Members):
                self.members = [
                    m
                    for m in self._roll.call(self._directory.heard(message), now)
                    if self._only is None or m.instance == self._only
                ]
                self.table.on_members(self.members, now)
                self._forget(now)
            elif isinstance(message, View):
                self.views.heard(message)
        for client in self._steps.values():
            for message in client.receive(0.0):
                self.table.on_message(message, now)
        while self.table.reported:
            self._on_report(self.table.reported.pop())
        for effect in self.table.take_effects():
            if effect.address not in self._steps:
                client = ControlClient(effect.address, FROM_STEP, self._key)
                self._steps[effect.address] = client
            with contextlib.suppress(PeerLost):
                self._steps[effect.address].send(effect.message)
        self._write(now)

    def _write(self, now: float) -> None:
        """Journal the news, then wake who waits for it."""
        changed, self.table.changed = self.table.changed, set()
        for name in changed:
            entry = self.table.entries.get(name)
            if entry is None:
                continue
            written = self._written.get(name, 0)
            new_ids = entry.token_ids[written:]
            if name in self._written:
                known = self._scored[name]
                self._journal.scored(name, known, entry.prompt_scores[known:])
                self._scored[name] = len(entry.prompt_scores)
            if new_ids and name in self._written:
                scores = entry.scores[written:]
                self._journal.taken(name, written, new_ids, entry.finish_reason, scores)
                self.history.note(entry, len(new_ids), now)
                self._written[name] = len(entry.token_ids)
            if entry.done and self._written.pop(name, None) is not None:
                if entry.error or not new_ids:
                    reason, error, code = entry.finish_reason, entry.error, entry.error_code
                    self._journal.ended(Ended(name, reason, error, code))
                self._expected.pop(name, None)
                del self._scored[name]
                self.history.forget(name)
                self._on_end(entry, self.terms[name])
            if name in self._news:
                self._news[name].set()
        self.table.forget(now, self._attending)

    def _forget(self, now: float) -> None:
        """Sockets of steps that are gone, requests nobody came back for or the table forgot."""
        for name in [name for name, until in self._expected.items() if until < now]:
            del self._expected[name]
            self.table.cancel(name, now)
        for name in self.terms.keys() - self.table.entries.keys():
            del self.terms[name]
            self._news.pop(name, None)
        if self._journal.is_long:
            self._journal.rewrite(self._left())
        known = {member.step_address for member in self.members}
        for address in [one for one in self._steps if one not in known]:
            self._gone.append(self._steps.pop(address))

    def _left(self) -> list[Left]:
        """What a successor would have to know."""
        ended = [entry for entry in self.table.entries.values() if entry.done][-KEEP_ENDED:]
        kept = [*ended, *self.table.running]
        return [left_of(entry, self.terms[entry.request.request_id]) for entry in kept]

    async def _sleep(self) -> None:
        """Until a socket has something, or a moment has passed."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        sockets = [self._planner, *self._steps.values()]
        if any(socket.pending() for socket in sockets):
            await asyncio.sleep(0)
            return
        descriptors = [socket.fileno() for socket in sockets]
        for descriptor in descriptors:
            loop.add_reader(descriptor, woken.set)
        try:
            await asyncio.wait_for(woken.wait(), TICK_S)
        except TimeoutError:
            pass
        finally:
            for descriptor in descriptors:
                loop.remove_reader(descriptor)

    def close(self) -> None:
        for client in (*self._steps.values(), *self._gone, self._planner):
            client.close()
        self._journal.close()
