"""The journal: a gateway's successor finds what was accepted and taken, whatever was torn off."""

from hypothesis import given
from hypothesis import strategies as st

from engine.core import Request, SamplingParams, Score
from engine.server.journal import KEEP_ENDED, Ended, Journal, Terms


def request(name: str) -> Request:
    return Request(
        request_id=name,
        prompt_ids=(1, 2, 3),
        sampling=SamplingParams(max_tokens=9, seed=7),
        cache_salt="s",
    )


actions = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "last", "end"])), max_size=20
)


@given(actions=actions, torn=st.integers(0, 6))
def test_successor_finds_what_is_unfinished_and_how_the_rest_ended(tmp_path_factory, actions, torn):
    path = tmp_path_factory.mktemp("journal") / "log"
    journal, nothing = Journal.open(path)
    assert nothing == []
    known: dict[str, list[int]] = {}
    ends: dict[str, Ended | None] = dict.fromkeys("abc")
    for name in "abc":
        journal.accepted(request(name), Terms(True, ["x"], True))
        known[name] = []
    for name, action in actions:
        if ends[name]:
            continue
        if action == "end":
            ends[name] = Ended(name, "", "no memory", "code")
            journal.ended(ends[name])
        else:
            if action == "last":
                ends[name] = Ended(name, "length")
            reason = "length" if action == "last" else ""
            journal.taken(name, len(known[name]), [len(known[name])], reason)
            known[name].append(len(known[name]))
    # A record that was being written when the process died.
    journal._file.write(b"\x20\0\0\0torn-off"[:torn])
    journal.close()
    for _ in range(2):  # opening it is itself repeatable
        again, found = Journal.open(path)
        assert {left.request.request_id: left.token_ids for left in found} == known
        assert {left.request.request_id: left.end for left in found} == ends
        assert all(left.request == request(left.request.request_id) for left in found)
        assert all(left.terms == Terms(True, ["x"], True) for left in found)
        again.close()


def test_old_complete_answers_are_forgotten(tmp_path):
    journal, _ = Journal.open(tmp_path / "log")
    for number in range(KEEP_ENDED + 3):
        journal.accepted(request(str(number)), Terms())
        journal.taken(str(number), 0, [7], "stop")
    journal.close()
    again, found = Journal.open(tmp_path / "log")
    again.close()
    assert [left.request.request_id for left in found] == [
        str(number) for number in range(3, KEEP_ENDED + 3)
    ]


def test_scores_are_found_with_their_tokens(tmp_path):
    scores = [Score(-0.5 - number, 1, ((number, -0.5),)) for number in range(4)]
    journal, _ = Journal.open(tmp_path / "log")
    journal.accepted(request("a"), Terms())
    journal.scored("a", 0, scores[:1])
    journal.scored("a", 1, scores[1:2])
    journal.taken("a", 0, [7], scores=scores[2:3])
    journal.taken("a", 1, [8], scores=scores[3:])
    journal.close()
    for _ in range(2):
        again, [left] = Journal.open(tmp_path / "log")
        again.close()
        assert (left.prompt_scores, left.token_ids, left.scores) == (scores[:2], [7, 8], scores[2:])
