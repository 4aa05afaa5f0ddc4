"""Who may join, under which number: never one that somebody goes by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import (
    VERSION,
    Evacuate,
    Heartbeat,
    Join,
    Joined,
    NotJoined,
    Register,
)
from engine.scheduler.membership import LISTEN_S, Membership


def beat(instance):
    return Heartbeat(instance, 1, "", "", 8, 8, 8, 0, 8)


def fresh(now=0.0):
    return Membership(cluster="ours", layout="rows", num_first=2, now=now)


@given(st.lists(st.tuples(st.sampled_from(["join", "again", "seen"]), st.integers(0, 9))))
def test_numbers_are_given_once_and_never_those_in_use(events):
    planner, seen, given_to = fresh(), {0, 1}, {}
    for kind, number in events:
        if kind == "seen":
            planner.handle(b"pool", beat(number), LISTEN_S)
            seen.add(number)
            continue
        ticket = number if kind == "again" else 100 + len(given_to)
        [(peer, answer)] = planner.handle(b"me", Join(VERSION, "rows", ticket), LISTEN_S)
        assert (peer, answer.cluster, answer.ticket) == (b"me", "ours", ticket)
        if ticket not in given_to:
            assert answer.instance not in seen | set(given_to.values())
            given_to[ticket] = answer.instance
        assert answer.instance == given_to[ticket]


@pytest.mark.parametrize(
    ("protocol", "layout", "said"),
    [(VERSION + 2, "rows", "version"), (VERSION, "columns", "its blocks are rows, yours columns")],
)
def test_who_does_not_fit_is_told_why(protocol, layout, said):
    [(_, answer)] = fresh().handle(b"me", Join(protocol, layout, 7), 0.0)
    assert isinstance(answer, NotJoined)
    assert (answer.ticket, said in answer.reason) == (7, True)


def test_a_new_planner_listens_before_it_gives_a_number():
    planner = fresh(now=50.0)
    assert planner.handle(b"me", Join(VERSION, "rows", 1), 50.0) == []
    planner.handle(b"pool", beat(5), 51.0)
    answer = planner.handle(b"me", Join(VERSION, "rows", 1), 50.0 + LISTEN_S)
    assert answer == [(b"me", Joined(1, 6, "ours"))]


def test_the_number_of_a_silent_member_is_not_given_again_by_the_next_planner():
    first = fresh()
    [(_, silent)] = first.handle(b"me", Join(VERSION, "rows", 1), LISTEN_S)
    after = Membership(cluster="ours", layout="rows", num_first=first.next_number, now=50.0)
    [(_, other)] = after.handle(b"you", Join(VERSION, "rows", 2), 50.0 + LISTEN_S)
    assert (silent.instance, other.instance) == (2, 3)


def test_an_operators_wish_goes_to_the_step_or_else_to_the_pool():
    planner = fresh()
    assert planner.handle(b"operator", Evacuate(3), 0.0) == []
    planner.handle(b"pool 3", beat(3), 0.0)
    assert planner.handle(b"operator", Evacuate(3), 0.0) == [(b"pool 3", Evacuate(3))]
    planner.handle(b"step 3", Register(3, 1, "tcp://x:1"), 0.0)
    assert planner.handle(b"operator", Evacuate(3), 0.0) == [(b"step 3", Evacuate(3))]
