"""Limits: which requests are taken. A full queue answers 503, a tenant's quota 429, with numbers.

All of it is read off the request table, so there is nothing to keep in step with it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.core import Request
from engine.protocol import Member
from engine.scheduler.request_table import Entry
from engine.server.api_keys import Tenant
from engine.server.problems import Problem

MINUTE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    max_queued_requests: int = 0
    """accepted, and not begun at any instance; 0: any number"""
    max_queued_tokens: int = 0
    """of their prompts; one request alone may always wait; 0: any number"""

    def check(
        self,
        request: Request,
        tenant: Tenant,
        entries: Iterable[Entry],
        members: Sequence[Member],
        now: float,
    ) -> None:
        """Raises Problem when it cannot be taken now."""
        known = list(entries)
        self._check_quota(request, tenant, [e for e in known if _is_of(e, tenant)], now)
        self._check_queue(request, known, members, now)

    def _check_queue(
        self, request: Request, known: Sequence[Entry], members: Sequence[Member], now: float
    ) -> None:
        queued = [e for e in known if not e.done and e.started_at is None]
        tokens = sum(len(e.request.prompt_ids) for e in queued)
        num_tokens = len(request.prompt_ids)
        too_many = self.max_queued_requests and len(queued) >= self.max_queued_requests
        too_long = self.max_queued_tokens and tokens + num_tokens > self.max_queued_tokens
        if not queued or not (too_many or too_long):
            return
        num_to_leave = max(1, len(queued) + 1 - (self.max_queued_requests or len(queued) + 1))
        if too_long:
            num_to_leave = max(num_to_leave, self._num_to_leave(queued, tokens + num_tokens))
        free = sum(member.num_free for member in members)
        lendable = sum(member.num_lendable for member in members)
        raise Problem(
            503,
            f"The queue is full: {len(queued)} requests with {tokens} prompt tokens wait, of at "
            f"most {self.max_queued_requests or 'any number of'} requests and "
            f"{self.max_queued_tokens or 'any number of'} tokens; of the pools' blocks {free} are "
            f"free and {lendable} may be borrowed. Try again later.",
            code="queue_full",
            retry_after_s=wait_s(num_to_leave, known, now),
        )

    def _num_to_leave(self, queued: Sequence[Entry], num_tokens: int) -> int:
        """How many must leave, if those with the shortest prompts do first."""
        for number, length in enumerate(sorted(len(e.request.prompt_ids) for e in queued), 1):
            num_tokens -= length
            if num_tokens <= self.max_queued_tokens:
                return number
        return len(queued)

    def _check_quota(
        self, request: Request, tenant: Tenant, own: Sequence[Entry], now: float
    ) -> None:
        running = [e for e in own if not e.done]
        if tenant.max_requests and len(running) >= tenant.max_requests:
            raise Problem(
                429,
                f"{tenant.name} has {len(running)} requests under way, of at most "
                f"{tenant.max_requests} at once. Try again when one has ended.",
                code="rate_limit_exceeded",
                retry_after_s=wait_s(len(running) + 1 - tenant.max_requests, own, now),
            )
        if not tenant.tokens_per_minute:
            return
        wanted = len(request.prompt_ids)
        recent = sorted((_leaves_at(e, now), _num_tokens(e)) for e in own)
        recent = [(at, num_tokens) for at, num_tokens in recent if at > now]
        used = left = sum(num_tokens for _, num_tokens in recent)
        if not used or used + wanted <= tenant.tokens_per_minute:
            return
        room_at = now
        for at, num_tokens in recent:
            left, room_at = left - num_tokens, at
            if not left or left + wanted <= tenant.tokens_per_minute:
                break
        raise Problem(
            429,
            f"{tenant.name} had {used} tokens in the last minute and wants {wanted} more, of at "
            f"most {tenant.tokens_per_minute} a minute. Try again later.",
            code="rate_limit_exceeded",
            retry_after_s=max(1, math.ceil(room_at - now)),
        )


NO_LIMITS = Limits()


def wait_s(num_to_leave: int, entries: Sequence[Entry], now: float) -> int:
    """Seconds until so many requests have begun, or ended.

    The c that run end within the longest time that one took lately, and each lets another begin:
    so c leave in every such time. Where none has run yet, one that waits is asked to be patient for
    as long as the oldest has been.
    """
    begun = [e for e in entries if e.started_at is not None]
    longest_s = max((_end(e, now) - (e.started_at or now) for e in begun), default=0.0)
    if not begun:
        longest_s = max((now - e.arrived for e in entries if not e.done), default=0.0)
    num_running = sum(1 for e in begun if not e.done)
    return max(1, math.ceil(longest_s * math.ceil(num_to_leave / max(1, num_running))))


def _is_of(entry: Entry, tenant: Tenant) -> bool:
    return entry.request.tenant == tenant.name


def _end(entry: Entry, now: float) -> float:
    return now if entry.ended_at is None else entry.ended_at


def _leaves_at(entry: Entry, now: float) -> float:
    """When its tokens are no more those of the last minute."""
    return _end(entry, now) + MINUTE_S


def _num_tokens(entry: Entry) -> int:
    return len(entry.request.prompt_ids) + len(entry.token_ids)
