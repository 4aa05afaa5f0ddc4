"""Each kind of leak, and each end that no request may have, is found."""

from dataclasses import replace

import pytest
from soak import GATEWAY, KEPT_KB, LEFT, SLACK_KB, Findings, Usage, judge

from engine.load.outcome import Outcome

USAGE = Usage(memory_kb=50_000, num_files=20, file_kb=300, num_threads=5)
NAMES = (GATEWAY, "lendkv-step 1")


def findings(*errors, seconds=1800.0, growth_kb=0):
    outcomes = [Outcome(1, times=[1.0]), *(Outcome(1, error=error) for error in errors)]
    found = Findings(seconds, 10.0, outcomes, rest=dict.fromkeys(NAMES, USAGE))
    for number in range(40):
        grown = replace(USAGE, memory_kb=50_000 + growth_kb * max(0, number - 20) // 20)
        found.looks.append(dict.fromkeys(NAMES, grown))
    return found


def said(found, **change):
    return judge(found, dict.fromkeys(NAMES, replace(USAGE, **change)))


def test_what_may_be_is_not_told():
    assert said(findings(LEFT, "HTTP 503: The queue is full"), num_threads=9, file_kb=9000) == []
    assert said(findings(growth_kb=3000), num_files=19) == []


@pytest.mark.parametrize("error", ["HTTP 500: oh", "ClientPayloadError: x", "in the stream: y"])
def test_an_end_that_no_request_may_have_is_told(error):
    assert said(findings(LEFT, error, error)) == [f"2 requests: {error}"]


@pytest.mark.parametrize(
    "change", [{"num_files": 21}, {"num_threads": 14}, {"file_kb": 300 + (17 << 10)}]
)
def test_what_is_left_over_is_told(change):
    problems = said(findings(), **change)
    assert len(problems) == len(NAMES)
    assert all(next(iter(change)) in problem for problem in problems)


def test_memory_that_grows_is_told():
    growth = int(50_000 * 0.05) + SLACK_KB + 500
    problems = said(findings(growth_kb=2 * growth))
    assert len(problems) == len(NAMES)


def test_a_gateway_may_grow_by_the_answers_that_it_keeps():
    growth = int(50_000 * 0.05) + SLACK_KB + 500
    found = findings(growth_kb=2 * growth)
    for number in range(2 * growth // KEPT_KB):
        found.outcomes.append(Outcome(1, times=[1.0], ended=1000 + number / 100))
    assert found.kept() == [1, 0]
    assert len(said(found)) == len(NAMES), "they have been forgotten"
    for outcome in found.outcomes:
        outcome.ended += 400
    assert [problem.partition(":")[0] for problem in said(found)] == ["lendkv-step 1"]


def test_a_process_more_or_less_is_told():
    assert "processes" in judge(findings(), {GATEWAY: USAGE})[0]
