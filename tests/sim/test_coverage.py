"""Each (message, fate, state) that can occur counts; none is excused for being rare."""

import pytest

from engine.sim.coverage import DONOR, ENOUGH, FATES, POOL, STEP, coverage


def test_a_cell_is_below_until_it_is_seen_often_enough():
    said = coverage({("Data", "late", "idle"): ENOUGH - 1, ("Data", "lost", "idle"): ENOUGH})
    assert said["below"]["Data late idle"] == ENOUGH - 1
    assert "Data lost idle" not in said["below"]
    assert said["covered"] == 1


@pytest.mark.parametrize(("kind", "states"), [("Data", STEP), ("Evacuate", STEP + DONOR)])
def test_what_is_seldom_is_wanted_all_the_same(kind, states):
    below = coverage({})["below"]
    assert {f"{kind} {fate} {state}" for fate in FATES for state in states} <= below.keys()


def test_what_cannot_occur_is_not_wanted():
    below = coverage({})["below"]
    assert "Answer none idle" not in below
    assert f"Evacuate none {POOL[-1]}" not in below
