"""Limits: which requests are taken. A full queue answers 503, a tenant's quota 429, with numbers.

All of it is read off the request table's census: what a check costs does not grow with the table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.core import Request
from engine.protocol import Member
from engine.scheduler.census import Census, Tally
from engine.server.api_keys import Tenant
from engine.server.problems import Problem


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
        census: Census,
        members: Sequence[Member],
        now: float,
    ) -> None:
        """Raises Problem when it cannot be taken now."""
        _check_quota(request, tenant, census.of(tenant.name), now)
        self._check_queue(request, census.all, members, now)

    def _check_queue(
        self, request: Request, known: Tally, members: Sequence[Member], now: float
    ) -> None:
        num_queued, tokens = len(known.waiting), known.num_waiting_tokens
        num_tokens = len(request.prompt_ids)
        too_many = self.max_queued_requests and num_queued >= self.max_queued_requests
        too_long = self.max_queued_tokens and tokens + num_tokens > self.max_queued_tokens
        if not num_queued or not (too_many or too_long):
            return
        num_to_leave = max(1, num_queued + 1 - (self.max_queued_requests or num_queued + 1))
        if too_long:
            num_to_leave = max(num_to_leave, self._num_to_leave(known, tokens + num_tokens))
        free = sum(member.num_free for member in members)
        lendable = sum(member.num_lendable for member in members)
        raise Problem(
            503,
            f"The queue is full: {num_queued} requests with {tokens} prompt tokens wait, of at "
            f"most {self.max_queued_requests or 'any number of'} requests and "
            f"{self.max_queued_tokens or 'any number of'} tokens; of the pools' blocks {free} are "
            f"free and {lendable} may be borrowed. Try again later.",
            code="queue_full",
            retry_after_s=wait_s(num_to_leave, known, now),
        )

    def _num_to_leave(self, known: Tally, num_tokens: int) -> int:
        """How many must leave, if those with the shortest prompts do first."""
        lengths = sorted(len(entry.request.prompt_ids) for entry in known.waiting.values())
        for number, length in enumerate(lengths, 1):
            num_tokens -= length
            if num_tokens <= self.max_queued_tokens:
                return number
        return len(lengths)


NO_LIMITS = Limits()


def _check_quota(request: Request, tenant: Tenant, own: Tally, now: float) -> None:
    if tenant.max_requests and own.num_open >= tenant.max_requests:
        raise Problem(
            429,
            f"{tenant.name} has {own.num_open} requests under way, of at most "
            f"{tenant.max_requests} at once. Try again when one has ended.",
            code="rate_limit_exceeded",
            retry_after_s=wait_s(own.num_open + 1 - tenant.max_requests, own, now),
        )
    if not tenant.tokens_per_minute:
        return
    wanted, used = len(request.prompt_ids), own.num_minute_tokens(now)
    if not used or used + wanted <= tenant.tokens_per_minute:
        return
    room_at = own.room_at(now, tenant.tokens_per_minute - wanted)
    raise Problem(
        429,
        f"{tenant.name} had {used} tokens in the last minute and wants {wanted} more, of at "
        f"most {tenant.tokens_per_minute} a minute. Try again later.",
        code="rate_limit_exceeded",
        retry_after_s=max(1, math.ceil(room_at - now)),
    )


def wait_s(num_to_leave: int, known: Tally, now: float) -> int:
    """Seconds until so many requests have begun, or ended.

    The c that run end within the longest time that one took lately, and each lets another begin:
    so c leave in every such time. Where none has run yet, one that waits is asked to be patient for
    as long as the oldest has been.
    """
    longest_s = known.longest_s(now)
    if longest_s is None:
        longest_s = known.patience_s(now)
    return max(1, math.ceil(longest_s * math.ceil(num_to_leave / max(1, len(known.running)))))
