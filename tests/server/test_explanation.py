"""What is told of a request whose steps hand it over and die; and that any life can be told."""

from hypothesis import given
from hypothesis import strategies as st

from engine.core import Request
from engine.explain import WORDS, words
from engine.protocol import HandedOver, Life, Member, Moment, Tokens
from engine.scheduler.request_table import RequestTable
from engine.scheduler.timeline import MOST, Timeline
from engine.server.explanation import explanation


def member(instance, address):
    return Member(instance, 1, address, 9, 9, 0, 0)


def test_each_attempt_says_why_it_began_and_what_its_step_told():
    table = RequestTable(block_tokens=4)
    entry = table.add(Request(request_id="a", prompt_ids=(1, 2)), 0.0)
    assert explanation(entry, 1.0)["state"] == "without an instance"
    table.on_members([member(0, "here"), member(1, "there")], 1.0)
    first = entry.instance
    table.on_message(Tokens(entry.attempt_id, 0, [7]), 2.0)
    table.on_message(HandedOver(entry.attempt_id, Life([Moment("handed_over", 2.5, 2.5)])), 2.5)
    assert entry.instance == 1 - first
    table.on_members([member(first, "here" if first == 0 else "there")], 3.0)
    table.on_message(Tokens(entry.attempt_id, 1, [8], "length"), 4.0)
    found = explanation(entry, 9.0)
    assert [one["why"] for one in found["attempts"]] == ["first", "hand_over", "step_lost"]
    assert [one["instance"] for one in found["attempts"]] == [first, 1 - first, first]
    assert [one["tokens_before"] for one in found["attempts"]] == [0, 1, 1]
    assert [one["is_known"] for one in found["attempts"]] == [True, False, False]
    assert (found["state"], found["age_s"], found["ttft_s"], found["tpot_s"]) == (
        *("ended", 4.0, 2.0, 2.0),
    )
    text = "\n".join(words(found))
    assert "was handed over" in text
    assert "handed over by the one before" in text
    assert "since the one before was lost" in text
    assert text.count("its step has not told of it") == 2


notes = st.tuples(st.sampled_from(sorted(WORDS)), st.integers(-1, 3), st.integers(0, 9))


@given(noted=st.lists(notes, max_size=3 * MOST))
def test_a_timeline_is_bounded_in_order_and_loses_no_amount_that_it_keeps(noted):
    timeline = Timeline()
    for at, (what, instance, amount) in enumerate(noted):
        timeline.note(what, float(at), instance, amount)
    life = timeline.life()
    assert len(life.moments) <= MOST
    begins = [moment.at_s for moment in life.moments]
    assert begins == sorted(begins)
    kept = sum(moment.times for moment in life.moments)
    if not life.num_left_out:
        assert kept == len(noted)
        for what in WORDS:
            told = sum(moment.amount for moment in life.moments if moment.what == what)
            assert told == sum(amount for one, _, amount in noted if one == what)
    assert [m.at_s for m in life.moments[:1]] == [0.0] * bool(noted)
    for moment in life.moments:
        text = WORDS[moment.what].format(
            instance=moment.instance, amount=moment.amount, times=moment.times, each=0
        )
        assert "{" not in text
