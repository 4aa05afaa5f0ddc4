"""A request that cannot be taken now is told the numbers, and when to come again: not too early."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from instant import InstantGateway, build, send

from engine.core import Request
from engine.protocol import Member, Progress
from engine.scheduler.census import MINUTE_S, Census
from engine.scheduler.entry import Entry
from engine.server.api_keys import ApiKeys, Tenant
from engine.server.limits import Limits, wait_s
from engine.server.problems import Problem

MEMBERS = [Member(0, 1, "s", 24, 7, 0, 3), Member(1, 1, "t", 24, 5, 0, 2)]
NUMBERS = itertools.count()
ALICE = Tenant(name="alice", max_requests=2, tokens_per_minute=100)


def request(name="r", num_prompt=4, tenant=""):
    return Request(request_id=name, prompt_ids=tuple(range(num_prompt)), tenant=tenant)


def entry(arrived, started=None, ended=None, *, num_prompt=4, tenant="", answer=0):
    name = f"x{next(NUMBERS)}"
    found = Entry(request(name, num_prompt, tenant), arrived, token_ids=[1] * answer)
    found.started_at, found.ended_at = started, ended
    found.finish_reason = "" if ended is None else "length"
    return found


def census(entries):
    """What is known of these, once all that befell them was told in its order."""
    found, events = Census(), []
    for one in entries:
        events.append((one.arrived, 0, lambda one=one: found.added(one)))
        if one.started_at is not None:
            events.append((one.started_at, 1, lambda one=one: found.began(one)))
        if one.ended_at is not None:
            events.append((one.ended_at, 2, lambda one=one: found.ended(one, one.ended_at)))
    for _, _, tell in sorted(events, key=lambda event: event[:2]):
        tell()
    return found


def eighths(least, most):
    """Seconds that add up exactly."""
    return st.integers(least, most).map(lambda number: number / 8)


def refusal(limits, entries, now, wanted=None, tenant=None):
    with pytest.raises(Problem) as refused:
        limits.check(wanted or request(), tenant or Tenant(), census(entries), MEMBERS, now)
    return refused.value


def test_a_full_queue_tells_what_waits_what_may_and_what_is_free():
    limits = Limits(max_queued_requests=2, max_queued_tokens=50)
    entries = [entry(0.0, 1.0), entry(2.0), entry(3.0, num_prompt=6)]
    refused = refusal(limits, entries, 9.0)
    assert refused.status == 503
    assert refused.body["error"]["code"] == "queue_full"
    text = refused.body["error"]["message"]
    for said in ("2 requests", "10 prompt tokens", "most 2 requests", "50 tokens"):
        assert said in text
    assert "12 are free and 5 may be borrowed" in text
    assert int(refused.headers["Retry-After"]) == 8  # the one that runs has taken so long


def test_what_runs_or_has_ended_does_not_wait():
    limits = Limits(max_queued_requests=1)
    limits.check(request(), Tenant(), census([entry(0.0, 1.0), entry(0.0, 1.0, 2.0)]), MEMBERS, 3.0)
    refusal(limits, [entry(0.0)], 3.0)


def test_tokens_are_bounded_as_well_and_one_request_alone_may_wait():
    limits = Limits(max_queued_tokens=10)
    limits.check(request(num_prompt=99), Tenant(), census([]), MEMBERS, 0.0)
    limits.check(request(num_prompt=6), Tenant(), census([entry(0.0)]), MEMBERS, 0.0)
    refusal(limits, [entry(0.0)], 0.0, request(num_prompt=7))


@given(
    services=st.lists(eighths(1, 160), min_size=8, max_size=40),
    num_lines=st.integers(1, 4),
    limit=st.integers(1, 6),
    token_limit=st.sampled_from([0, 9, 20]),
    data=st.data(),
)
def test_who_comes_again_when_it_was_told_finds_room(services, num_lines, limit, token_limit, data):
    """So many run at once; a line takes the next one that waits whenever its last has ended.

    The longest time that one takes has been seen once: what is measured cannot know more.
    """
    longest = max(services)
    lengths = [data.draw(st.integers(1, 9)) for _ in services]
    past = [entry(-longest - 1.0, -longest - 1.0, -1.0)]
    free, entries = [0.0] * num_lines, []
    for service, length in zip(services, lengths, strict=True):  # all come at once
        begins = min(free)
        free[free.index(begins)] = begins + service
        entries.append((begins, begins + service, length))
    now = data.draw(eighths(0, int(4 * max(end for _, end, _ in entries))))
    limits = Limits(max_queued_requests=limit, max_queued_tokens=token_limit)
    wanted = request(num_prompt=data.draw(st.integers(1, 9)))

    def table_at(now):
        entries_then = past + [
            entry(
                0.0,
                begins if begins <= now else None,
                ends if ends <= now else None,
                num_prompt=length,
            )
            for begins, ends, length in entries
        ]
        return census(entries_then)

    try:
        limits.check(wanted, Tenant(), table_at(now), MEMBERS, now)
    except Problem as refused:
        wait = int(refused.headers["Retry-After"])
        assert wait >= 1
        limits.check(wanted, Tenant(), table_at(now + wait), MEMBERS, now + wait)


def test_where_nothing_has_begun_the_oldest_ones_patience_is_asked():
    assert wait_s(2, census([entry(0.0), entry(4.0)]).all, 5.0) == 10
    assert wait_s(1, census([]).all, 0.0) == 1


def test_a_tenant_has_so_many_requests_at_once():
    own = [entry(0.0, 1.0, tenant="alice"), entry(0.0, tenant="alice")]
    refused = refusal(Limits(), [*own, entry(0.0)], 4.0, tenant=ALICE)
    assert (refused.status, refused.body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "alice has 2 requests under way, of at most 2" in refused.body["error"]["message"]
    assert refused.headers["Retry-After"] == "3"
    Limits().check(request(), Tenant(name="bob", max_requests=2), census(own), MEMBERS, 4.0)


@given(
    past=st.lists(
        st.tuples(st.floats(0, 200), st.integers(1, 60), st.integers(0, 60)), max_size=12
    ),
    wanted=st.integers(1, 150),
)
def test_tokens_of_a_minute_and_exactly_when_there_are_some_again(past, wanted):
    """(ended at, prompt, answer) of earlier requests; nothing else is sent meanwhile."""
    tenant, now = Tenant(name="alice", tokens_per_minute=100), 200.0
    entries = [
        entry(0.0, 0.0, at, num_prompt=prompt, answer=answer, tenant="alice")
        for at, prompt, answer in past
    ]
    used = sum(prompt + answer for at, prompt, answer in past if now - at < MINUTE_S)
    if not used or used + wanted <= 100:
        Limits().check(request(num_prompt=wanted), tenant, census(entries), MEMBERS, now)
        return
    refused = refusal(Limits(), entries, now, request(num_prompt=wanted), tenant)
    assert f"alice had {used} tokens" in refused.body["error"]["message"]
    wait = int(refused.headers["Retry-After"])
    assert wait <= math.ceil(MINUTE_S)
    Limits().check(request(num_prompt=wanted), tenant, census(entries), MEMBERS, now + wait)
    if wait > 1:
        early = now + wait - 1.001
        refusal(Limits(), entries, early, request(num_prompt=wanted), tenant)


class WaitingGateway(InstantGateway):
    """Its steps never answer but for what the test says."""

    def submit(self, request, terms):
        self.terms[request.request_id] = terms
        return self.table.add(request, 0.0)


def test_the_server_refuses_the_one_too_many_and_keeps_what_it_has_taken():
    gateway = WaitingGateway()
    keys = ApiKeys([("here", "sk-a name=alice priority=3"), ("here", "sk-b name=bob")])
    app = build(gateway, keys=keys, limits=Limits(max_queued_requests=1))
    waiting = gateway.submit(request("first"), None)
    body = json.dumps({"model": "tiny", "prompt": "hi", "priority": -5}).encode()
    alice = {"authorization": "Bearer sk-a"}
    refused = send(app, "POST", "/v1/completions", body, alice)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert not waiting.done
    gateway.table.on_message(Progress(waiting.attempt_id, 1, 4), 1.0)
    assert list(gateway.table.entries) == ["first"]


def test_a_request_travels_with_its_tenant_and_what_that_may():
    gateway = InstantGateway()
    app = build(gateway, keys=ApiKeys([("here", "sk-a name=alice priority=3 max_borrowed=9")]))
    for wanted in (None, -5, 7):
        body = json.dumps({"model": "tiny", "prompt": "hi", "priority": wanted}).encode()
        headers = {"authorization": "Bearer sk-a"}
        assert send(app, "POST", "/v1/completions", body, headers).status_code == 200
    asked = [e.request for e in gateway.table.entries.values()]
    assert [(one.tenant, one.priority, one.max_borrowed) for one in asked] == [
        ("alice", 3, 9),
        ("alice", 3, 9),
        ("alice", 7, 9),
    ]
