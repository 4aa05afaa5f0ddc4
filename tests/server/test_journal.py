"""The journal: a gateway's successor finds what was accepted and taken, whatever was torn off."""

from hypothesis import given
from hypothesis import strategies as st

from engine.core import Request, SamplingParams
from engine.server.journal import Journal, Terms


def request(name: str) -> Request:
    return Request(
        request_id=name, prompt_ids=(1, 2, 3), sampling=SamplingParams(max_tokens=9, seed=7)
    )


actions = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "end"])), max_size=20)


@given(actions=actions, torn=st.integers(0, 6))
def test_successor_finds_what_is_unfinished(tmp_path_factory, actions, torn):
    path = tmp_path_factory.mktemp("journal") / "log"
    journal, nothing = Journal.open(path)
    assert nothing == []
    known: dict[str, list[int]] = {}
    for name in "abc":
        journal.accepted(request(name), Terms(True, ["x"], True))
        known[name] = []
    for name, action in actions:
        if name not in known:
            continue
        if action == "end":
            journal.ended(name)
            del known[name]
        else:
            journal.taken(name, len(known[name]), [len(known[name])])
            known[name].append(len(known[name]))
    # A record that was being written when the process died.
    journal._file.write(b"\x20\0\0\0torn-off"[:torn])
    journal.close()
    for _ in range(2):  # opening it is itself repeatable
        again, unfinished = Journal.open(path)
        assert {left.request.request_id: left.token_ids for left in unfinished} == known
        assert all(left.request == request(left.request.request_id) for left in unfinished)
        assert all(left.terms == Terms(True, ["x"], True) for left in unfinished)
        again.close()
