"""RequestTable: a gateway's requests, each answered exactly once whatever dies meanwhile. No I/O.

A request runs as attempts; attempt ``n`` continues behind the tokens that came so far. Only the
current attempt's next token is taken, so nothing is lost or doubled when a step is restarted and
the request is sent again. What has been taken can be written to a journal and read back.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from engine.core import Request, Score
from engine.protocol import (
    Abort,
    Explained,
    Failed,
    HandedOver,
    Member,
    Message,
    Progress,
    PromptScores,
    Report,
    Submit,
    Tokens,
)
from engine.scheduler.affinity import Affinity, beginnings_of
from engine.scheduler.census import Census
from engine.scheduler.entry import HANDED_OVER, LOST, Entry
from engine.scheduler.kept import Kept
from engine.scheduler.pace import Pace
from engine.scheduler.router import SentLoads, route


@dataclass(frozen=True, slots=True)
class ToStep:
    """Send to the step at this control address."""

    address: str
    message: Message


class RequestTable:
    """Entries by request id; ``take_effects`` says what to send, ``changed`` who has news."""

    def __init__(
        self,
        *,
        block_tokens: int,
        kept: Kept | None = None,
        life: str = "",
        stays: bool = False,
    ) -> None:
        """``life`` tells this table's attempts from those of a gateway that died.

        ``stays``: there is one instance only to send requests to.
        """
        self._life = life
        self._num_added = 0
        self._stays = stays
        self.block_tokens = block_tokens
        self._kept = Kept() if kept is None else kept
        self._members: list[Member] = []
        self._affinity = Affinity()
        self.loads = SentLoads()
        self._effects: list[ToStep] = []
        self.entries: dict[str, Entry] = {}
        self._under_way: dict[str, Entry] = {}
        self.census = Census()
        self.changed: set[str] = set()
        self.reported: list[Entry] = []
        """whose report has come since somebody last took them"""
        self.pace = Pace()

    def add(
        self,
        request: Request,
        now: float,
        token_ids: Sequence[int] = (),
        scores: Sequence[Score] = (),
        prompt_scores: Sequence[Score] = (),
    ) -> Entry:
        """Take a request, and what had come of an answer that was under way before.

        A request id may come again once its first request is done.
        """
        self._num_added += 1
        life = f"{self._life}.{self._num_added}"
        entry = Entry(request, now, life, list(token_ids), list(scores), list(prompt_scores))
        self._kept.drop(request.request_id)
        self.entries[request.request_id] = self._under_way[request.request_id] = entry
        self.census.added(entry)
        self._send(entry, now)
        return entry

    def keep(
        self,
        request: Request,
        now: float,
        token_ids: Sequence[int],
        scores: Sequence[Score] = (),
        prompt_scores: Sequence[Score] = (),
        *,
        finish_reason: str,
        error: str = "",
        error_code: str = "",
    ) -> None:
        """Take an answer that is complete already, for who comes back to hear its end."""
        entry = Entry(request, now, self._life, list(token_ids), list(scores), list(prompt_scores))
        entry.finish_reason, entry.error, entry.error_code = finish_reason, error, error_code
        entry.ended_at = now
        self.entries[request.request_id] = entry
        self.census.ended(entry, now)
        self._kept.add(entry, now)

    def cancel(self, request_id: str, now: float) -> None:
        """Nobody wants the answer any more: its memory is freed at once."""
        if (entry := self._called_off(request_id)) is not None:
            self._end(entry, now, reason="abort")

    def fail(self, request_id: str, error: str, code: str, now: float) -> None:
        """It is given up, and its client is told why."""
        if (entry := self._called_off(request_id)) is not None:
            entry.error_code = code
            self._end(entry, now, error=error)

    def finish(self, request_id: str, reason: str, now: float) -> None:
        """The answer is complete by the gateway's own judgement, such as a stop string."""
        self.cancel(request_id, now)
        self.entries[request_id].finish_reason = reason

    def on_members(self, members: Sequence[Member], now: float) -> None:
        """The planner's view: send again what ran at a step that is gone."""
        self._members = list(members)
        addresses = {member.step_address for member in members if member.step_address}
        for entry in self.running:
            if entry.address not in addresses:
                if entry.address:  # perhaps only its planner was away: never run it twice
                    self._effects.append(ToStep(entry.address, Abort(entry.attempt_id)))
                    entry.why = LOST
                self._send(entry, now)

    def forget(self, now: float, told: Collection[str] = ()) -> None:
        """Answers that are too old, or too many; not those that are ``told`` to somebody now, nor
        those of which there is news."""
        for name in self._kept.leave(now, lambda name: name in told or name in self.changed):
            del self.entries[name]

    def on_message(self, message: Message, now: float) -> None:
        """From a step. Messages of earlier attempts are dropped."""
        attempt_id = getattr(message, "request_id", "")
        entry = self.entries.get(attempt_id.rpartition("#")[0])
        if entry is None or attempt_id != entry.attempt_id:
            return
        if entry.started_at is None and isinstance(message, Progress | Tokens) and not entry.done:
            entry.started_at = now
            self.census.began(entry)
        match message:
            case Tokens() if not entry.done:
                self._take(entry, message, now)
            case Report():
                entry.report, entry.attempts[-1].life = message, message.life
                self.reported.append(entry)
            case Explained() if entry.report is None:
                entry.attempts[-1].life = message.life
            case PromptScores() if message.index <= len(entry.prompt_scores):
                known = len(entry.prompt_scores) - message.index
                entry.prompt_scores += message.scores[known:]
                self.changed.add(entry.request.request_id)
            case Failed() if not entry.done:
                entry.error_code = message.code
                self._end(entry, now, error=message.reason)
            case HandedOver() if not entry.done:
                entry.attempts[-1].life = message.life
                entry.why = HANDED_OVER
                self._send(entry, now, leaving=entry.instance)
            case Progress():
                pass

    def take_effects(self) -> list[ToStep]:
        effects, self._effects = self._effects, []
        return effects

    @property
    def running(self) -> list[Entry]:
        return list(self._under_way.values())

    def _called_off(self, request_id: str) -> Entry | None:
        """The entry, if it was under way; its step is told to forget it."""
        entry = self.entries.get(request_id)
        if entry is None or entry.done:
            return None
        if entry.address:
            self._effects.append(ToStep(entry.address, Abort(entry.attempt_id)))
        return entry

    def _take(self, entry: Entry, message: Tokens, now: float) -> None:
        if message.index != len(entry.token_ids):
            return  # not the next token: it came before, or something was lost on the way
        if not entry.token_ids:
            entry.num_reused = message.num_reused
        entry.token_ids += message.token_ids
        entry.scores += message.scores
        num_tokens = len(message.token_ids)
        self.census.took(entry, num_tokens)
        entry.first_token_at = entry.first_token_at or now
        self.changed.add(entry.request.request_id)
        self._note_pace(entry, num_tokens, now)
        if message.finish_reason:
            self._end(entry, now, reason=message.finish_reason)

    def _note_pace(self, entry: Entry, num_tokens: int, now: float) -> None:
        if entry.instance is None:  # it waits for another one, and this came late
            return
        if len(entry.token_ids) == num_tokens:
            self.pace.began(entry.instance, len(entry.request.prompt_ids), entry.num_reused)
        gap_s = None if entry.last_token_at is None else now - entry.last_token_at
        self.pace.took(entry.instance, num_tokens, gap_s)
        entry.last_token_at = now

    def _end(self, entry: Entry, now: float, *, reason: str = "", error: str = "") -> None:
        entry.finish_reason, entry.error, entry.ended_at = reason, error, now
        name = entry.request.request_id
        del self._under_way[name]
        self.loads.end(name)
        self.census.ended(entry, now)
        self._kept.add(entry, now)
        self.changed.add(name)

    def _send(self, entry: Entry, now: float, *, leaving: int | None = None) -> None:
        """Begin the next attempt at an instance that is ready; else it waits for one."""
        members = [m for m in self._members if m.instance != leaving and not m.draining]
        self.loads.end(entry.request.request_id)
        beginnings = beginnings_of(entry.request.prompt_ids, entry.request.cache_salt)
        cached = self._affinity.find(beginnings) if len(members) > 1 else {}
        load = self.loads.tokens
        most = entry.request.max_borrowed
        instance = route(entry.num_tokens, members, load, self.block_tokens, cached, most)
        entry.instance, entry.address = instance, ""
        if instance is None:
            return
        self.loads.begin(entry.request.request_id, instance, entry.num_tokens)
        self._affinity.note(beginnings, instance)
        address = next(m.step_address for m in self._members if m.instance == instance)
        entry.begin(instance, address, now)
        self._effects.append(ToStep(entry.address, submit_of(entry, now, stays=self._stays)))


def submit_of(entry: Entry, now: float, *, stays: bool) -> Submit:
    """The message that starts the entry's current attempt, behind the tokens it has."""
    sampling = entry.request.sampling
    if len(entry.prompt_scores) == len(entry.request.prompt_ids) - 1:
        sampling = replace(sampling, prompt_logprobs=None)  # all are known
    return Submit(
        replace(
            entry.request,
            sampling=sampling,
            request_id=entry.attempt_id,
            answer_ids=tuple(entry.token_ids),
            age_s=max(0.0, now - entry.arrived),
            stays=stays,
        )
    )
