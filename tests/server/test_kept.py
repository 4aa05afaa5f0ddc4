"""Complete answers that are kept for clients who come back: how many, and for how long."""

from engine.core import Request, SamplingParams
from engine.protocol import Member
from engine.scheduler.kept import Kept
from engine.scheduler.request_table import RequestTable


def request(name: str) -> Request:
    return Request(request_id=name, prompt_ids=(1,), sampling=SamplingParams(max_tokens=3))


def test_a_complete_answer_that_is_kept_is_not_run_again_and_forgotten_in_time():
    table = RequestTable(block_tokens=4, kept=Kept(5.0))
    table.keep(request("a"), 0.0, [7, 8, 9], finish_reason="length")
    table.on_members([Member(0, 1, "s", 100, 100, 0, 0)], 1.0)
    assert table.take_effects() == []
    assert table.entries["a"].token_ids == [7, 8, 9]
    table.forget(5.0)
    assert "a" in table.entries
    table.forget(6.0)
    assert table.entries == {}


def ended(table, name, now=0.0, num_tokens=3):
    table.keep(request(name), now, [7] * num_tokens, finish_reason="length")


def test_of_too_many_answers_or_too_many_bytes_the_oldest_go():
    table = RequestTable(block_tokens=4, kept=Kept(max_entries=2))
    for name in "abc":
        ended(table, name)
    table.forget(0.0)
    assert [*table.entries] == ["b", "c"]
    table = RequestTable(block_tokens=4, kept=Kept(max_bytes=50_000))
    for name in "abc":
        ended(table, name, num_tokens=500)
    table.forget(0.0)
    assert [*table.entries] == ["b", "c"]


def test_what_is_told_to_somebody_or_not_told_yet_is_not_forgotten():
    table = RequestTable(block_tokens=4, kept=Kept(5.0, max_entries=1))
    for name in "abc":
        ended(table, name)
    table.changed.add("b")
    table.forget(9.0, {"a"})
    assert [*table.entries] == ["a", "b"]
    table.changed.clear()
    table.forget(9.0)
    assert [*table.entries] == ["b"], "it counts from when it was last wanted"


def test_a_name_that_comes_again_is_not_forgotten_with_its_first_answer():
    table = RequestTable(block_tokens=4, kept=Kept(5.0))
    ended(table, "a")
    entry = table.add(request("a"), 3.0)
    table.forget(99.0)
    assert table.entries["a"] is entry
