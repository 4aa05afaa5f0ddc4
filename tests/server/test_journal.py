"""The journal: a gateway's successor finds what was accepted and taken, whatever was torn off."""

from hypothesis import given
from hypothesis import strategies as st

from engine.core import Request, SamplingParams
from engine.server.journal import KEEP_ENDED, Ended, Journal, Terms


def request(name: str) -> Request:
    return Request(
        request_id=name, prompt_ids=(1, 2, 3), sampling=SamplingParams(max_tokens=9, seed=7)
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
