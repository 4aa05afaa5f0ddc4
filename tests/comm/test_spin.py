"""Protects the cores: who watches in vain watches shorter, who is in the way stops for a while."""

import pytest

from engine.comm import spin
from engine.comm.spin import LEAST_S, REST_S, Spin

LONGEST_S = 500e-6


@pytest.fixture
def core(monkeypatch):
    """How often this thread was preempted, and the time."""
    state = {"preempted": 7, "now": 100.0}
    monkeypatch.setattr(spin, "_times_preempted", lambda: state["preempted"])
    monkeypatch.setattr(spin, "monotonic", lambda: state["now"])
    return state


def watch(spinning, core, *, waited_s):
    seconds = spinning.begin(core["now"])
    spinning.end()
    spinning.learn(waited_s)
    return seconds


def test_it_watches_longer_where_that_would_have_met_the_news_and_shorter_where_not(core):
    spinning = Spin(LONGEST_S)
    grown = [watch(spinning, core, waited_s=0.9 * LONGEST_S) for _ in range(12)]
    assert grown == sorted(grown)
    assert grown[-1] == LONGEST_S
    assert [watch(spinning, core, waited_s=LEAST_S) for _ in range(3)] == [LONGEST_S] * 3
    shrunk = [watch(spinning, core, waited_s=2 * LONGEST_S) for _ in range(12)]
    assert shrunk == sorted(shrunk, reverse=True)
    assert shrunk[-1] == LEAST_S


def test_once_preempted_it_rests(core):
    spinning = Spin(LONGEST_S)
    assert spinning.begin(core["now"]) > 0
    core["preempted"] += 1
    spinning.end()
    assert spinning.begin(core["now"] + REST_S / 2) == 0
    assert spinning.begin(core["now"] + REST_S) > 0


def test_none_is_none(core):
    spinning = Spin(0.0)
    assert watch(spinning, core, waited_s=LONGEST_S) == 0
    assert watch(spinning, core, waited_s=LONGEST_S) == 0
