"""Census: how many requests of whom wait, run and have ended lately. No I/O.

The request table tells it of each event, so a question costs the same whatever the table keeps.
"""

from collections import OrderedDict, deque

from engine.scheduler.entry import Entry

MINUTE_S = 60.0
LATELY_S = 300.0


class Tally:
    """Of one tenant's requests, or of everybody's."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, Entry] = OrderedDict()
        """accepted and not begun at any instance, by request id, in order of arrival"""
        self.running: OrderedDict[str, Entry] = OrderedDict()
        """begun and not ended, in order of their beginnings"""
        self.num_waiting_tokens = 0
        """of their prompts"""
        self._num_open_tokens = 0
        """prompts and answers of those under way"""
        self._num_recent_tokens = 0
        self._recent: deque[tuple[float, int]] = deque()
        """when those of the last minute ended, and their tokens"""
        self._longest: deque[tuple[float, float]] = deque()
        """when those of lately ended, and how long they ran; only who ran longer than all later"""

    @property
    def num_open(self) -> int:
        """Requests under way."""
        return len(self.waiting) + len(self.running)

    def added(self, entry: Entry) -> None:
        self.waiting[entry.request.request_id] = entry
        self.num_waiting_tokens += len(entry.request.prompt_ids)
        self._num_open_tokens += num_tokens(entry)

    def began(self, entry: Entry) -> None:
        name = entry.request.request_id
        self.running[name] = self.waiting.pop(name)
        self.num_waiting_tokens -= len(entry.request.prompt_ids)

    def took(self, number: int) -> None:
        """So many tokens came for one under way."""
        self._num_open_tokens += number

    def ended(self, entry: Entry, now: float) -> None:
        """One under way has ended; or one that ended at an earlier gateway is kept."""
        name = entry.request.request_id
        if self.waiting.pop(name, None):
            self.num_waiting_tokens -= len(entry.request.prompt_ids)
            self._num_open_tokens -= num_tokens(entry)
        elif self.running.pop(name, None):
            self._num_open_tokens -= num_tokens(entry)
        self._recent.append((now, num_tokens(entry)))
        self._num_recent_tokens += num_tokens(entry)
        if entry.started_at is not None:
            took_s = now - entry.started_at
            while self._longest and self._longest[-1][1] <= took_s:
                self._longest.pop()
            self._longest.append((now, took_s))
        self._forget(now)

    def num_minute_tokens(self, now: float) -> int:
        """Of prompts and answers of the last minute, those under way included."""
        self._forget(now)
        return self._num_open_tokens + self._num_recent_tokens

    def room_at(self, now: float, most: int) -> float:
        """When the minute's tokens will be no more than ``most``, or none: if no more come, and
        those under way end now."""
        left = self.num_minute_tokens(now)
        for ended_at, number in self._recent:
            left -= number
            if not left or left <= most:
                return ended_at + MINUTE_S
        return now + MINUTE_S

    def longest_s(self, now: float) -> float | None:
        """The longest time that one has run lately, or runs; None where none has begun."""
        self._forget(now)
        found = [took_s for _, took_s in list(self._longest)[:1]]
        if self.running:
            first = next(iter(self.running.values()))
            found.append(now - (first.started_at or now))
        return max(found, default=None)

    def patience_s(self, now: float) -> float:
        """How long the oldest that waits has waited."""
        return max((now - one.arrived for one in list(self.waiting.values())[:1]), default=0.0)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] + MINUTE_S <= now:
            self._num_recent_tokens -= self._recent.popleft()[1]
        while self._longest and self._longest[0][0] + LATELY_S < now:
            self._longest.popleft()


class Census:
    """A tally of each tenant, and one of all."""

    def __init__(self) -> None:
        self.all = Tally()
        self._tenants: dict[str, Tally] = {}

    def of(self, tenant: str) -> Tally:
        if tenant not in self._tenants:
            self._tenants[tenant] = Tally()
        return self._tenants[tenant]

    def added(self, entry: Entry) -> None:
        for tally in self._both(entry):
            tally.added(entry)

    def began(self, entry: Entry) -> None:
        for tally in self._both(entry):
            tally.began(entry)

    def took(self, entry: Entry, number: int) -> None:
        self.all.took(number)
        self.of(entry.request.tenant).took(number)

    def ended(self, entry: Entry, now: float) -> None:
        for tally in self._both(entry):
            tally.ended(entry, now)

    def _both(self, entry: Entry) -> tuple[Tally, Tally]:
        return self.all, self.of(entry.request.tenant)


def num_tokens(entry: Entry) -> int:
    """Of its prompt and of its answer so far."""
    return len(entry.request.prompt_ids) + len(entry.token_ids)
