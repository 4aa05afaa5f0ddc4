"""The journal: a gateway's successor finds what was accepted and taken, whatever was torn off."""

import resource
from contextlib import contextmanager

from hypothesis import event, given
from hypothesis import strategies as st

from engine.core import Request, SamplingParams, Score
from engine.server import journal as journals
from engine.server.journal import KEEP_ENDED, Ended, Journal, Left, Terms


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


@contextmanager
def room_for(num_bytes):
    """Files of this process cannot grow beyond, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def found_in(path):
    """What a successor finds, of a copy."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    journal, found = Journal.open(copy)
    journal.close()
    return {left.request.request_id: left.token_ids for left in found}


@given(num_bytes=st.integers(0, 900), num_tokens=st.integers(1, 12))
def test_on_a_full_disk_requests_go_on_and_it_is_written_when_there_is_room(
    tmp_path_factory, num_bytes, num_tokens
):
    path = tmp_path_factory.mktemp("journal") / "log"
    journal, _ = Journal.open(path)
    known = {name: [] for name in "abc"}
    with room_for(num_bytes):
        for name in known:
            journal.accepted(request(name), Terms())
        for index in range(num_tokens):
            for name in known:
                journal.taken(name, index, [index])
                known[name].append(index)
        event("full" if journal.fault else "room enough")
        assert all(known[name][: len(ids)] == ids for name, ids in found_in(path).items())
        left = [Left(request(name), Terms(), ids, [], []) for name, ids in known.items()]
        if journal.fault:
            assert not journal.is_long, "it is not tried all the time"
            assert bool(journal.rewrite(left)) == bool(journal.fault)
    if journal.fault:
        size = path.stat().st_size
        journal.taken("a", num_tokens, [7])
        assert path.stat().st_size == size, "what comes behind a torn record cannot be read"
        assert journal.rewrite(left) == ""
    assert journal.fault == ""
    assert found_in(path) == known
    journal.taken("a", num_tokens, [7])
    assert found_in(path)["a"] == [*known["a"], 7]
    journal.close()


def test_a_successor_on_a_full_disk_knows_all_and_writes_when_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "RETRY_S", 0.0)
    path = tmp_path / "log"
    journal, _ = Journal.open(path)
    journal.accepted(request("a"), Terms())
    journal._file.write(b"\x20\0\0\0torn")
    journal.close()
    with room_for(10):
        again, [left] = Journal.open(path)
        assert again.fault
        again.taken("a", 0, [7])
    assert again.is_long
    assert again.rewrite([left._replace(token_ids=[7])]) == ""
    assert found_in(path) == {"a": [7]}
    again.close()
