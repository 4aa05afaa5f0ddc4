"""Streams of several choices go on behind any of their events, each choice behind what was told."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instant import InstantGateway, build, send
from test_gateway_journal import opened, request

from engine.scheduler.entry import Entry
from engine.server.choices import MAX_RESUMED, Choices, choices_of, event_id, name_of, told_of
from engine.server.journal import Terms


def events_of(answer):
    """(id, choice or None, body) of each event but the last, which is [DONE]."""
    assert answer.status_code == 200, answer.text
    *events, done = answer.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    found = []
    for one in events:
        head, _, data = one.rpartition("data: ")
        body = json.loads(data)
        choice = body["choices"][0] if body["choices"] else None
        found.append((head.removeprefix("id: ").strip(), choice, body))
    return found


def of_each(events, num_choices):
    """The events of each choice, and those of none."""
    found = [[] for _ in range(num_choices + 1)]
    for _, choice, body in events:
        found[choice["index"] if choice else num_choices].append(body)
    return found


def asked(app, **body):
    body = {"model": "tiny", "stream": True, "max_tokens": 9, **body}
    return events_of(send(app, "POST", "/v1/completions", json.dumps(body).encode()))


def resumed(app, last):
    name = last.rpartition(":")[0]
    headers = {"last-event-id": last}
    return events_of(send(app, "GET", f"/v1/streams/{name}", headers=headers))


@given(
    ids=st.lists(st.sampled_from([65, 66, 226, 152, 131]), min_size=1, max_size=6),
    n=st.integers(1, 4),
    prompts=st.sampled_from(["a", ["a", "b"]]),
    usage=st.booleans(),
    with_ids=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40)
def test_behind_each_event_comes_exactly_what_follows(ids, n, prompts, usage, with_ids, data):
    app = build(InstantGateway(ids))
    options = {"stream_options": {"include_usage": usage}, "return_token_ids": with_ids}
    whole = asked(app, prompt=prompts, n=n, **options)
    num_choices = n * (len(prompts) if isinstance(prompts, list) else 1)
    assert len({last for last, _, _ in whole}) == len(whole), "no two events share an id"
    told = data.draw(st.integers(0, len(whole)), "events that are told")
    first = whole[0][0].rpartition(":")[0]
    rest = resumed(app, whole[told - 1][0] if told else f"{first}:-1")
    assert of_each(rest, num_choices) == of_each(whole[told:], num_choices)
    assert {last for last, _, _ in rest[-1:]} == {last for last, _, _ in whole[told:][-1:]}


def test_more_choices_have_no_ids_and_are_refused_with_how_many_may_be():
    app = build()
    events = asked(app, prompt="a", n=MAX_RESUMED + 1, request_id="many")
    assert {last for last, _, _ in events} == {""}
    refused = send(app, "GET", "/v1/streams/cmpl-many")
    assert refused.status_code == 400
    assert f"more than {MAX_RESUMED} choices" in refused.json()["error"]["message"]
    assert f"has {MAX_RESUMED + 1}" in refused.json()["error"]["message"]


@pytest.mark.parametrize("numbers", ["", "1", "1,2,3", "1,", "x,1", "-2,1", "1,1,"])
def test_numbers_that_are_not_those_of_its_choices_are_refused(numbers):
    app = build()
    asked(app, prompt="a", n=2, request_id="two")
    headers = {"last-event-id": f"cmpl-two:{numbers}"}
    assert send(app, "GET", "/v1/streams/x", headers=headers).status_code == 404
    headers = {"last-event-id": "cmpl-two/0:1"}
    assert send(app, "GET", "/v1/streams/x", headers=headers).status_code == 404


def test_the_latest_answer_of_an_id_is_resumed_if_all_of_it_is_there():
    entries, terms = {}, {}
    for at, n in enumerate((3, 1, 2)):
        for index in range(n):
            name = name_of("a", index, n)
            entries[name] = Entry(request(name), float(at))
            terms[name] = Terms(index=index, choices=n, n=n)
        latest = [entries[name_of("a", index, n)] for index in range(n)]
        assert choices_of("a", entries, terms) == Choices("a", latest, n)
    assert choices_of("a/0", entries, terms) is None
    del entries["a/1"]
    assert choices_of("a", entries, terms) is None


@given(
    numbers=st.lists(st.integers(-1, 10**12 - 1), min_size=1, max_size=MAX_RESUMED),
    name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9),
)
def test_an_event_id_says_what_it_was_made_of(numbers, name):
    assert told_of(event_id(name, numbers)) == (name, numbers)


@pytest.mark.parametrize("num_choices", [2, MAX_RESUMED, MAX_RESUMED + 1])
def test_a_successor_goes_on_with_choices_whose_client_can_come_back(tmp_path, num_choices):
    first = opened(tmp_path / "log")
    for index in range(num_choices):
        terms = Terms(index=index, choices=num_choices, n=num_choices)
        first.submit(request(name_of("a", index, num_choices)), terms)
    first._journal.close()  # it is killed
    again = opened(tmp_path / "log")
    entries = list(again.table.entries.values())
    assert len(entries) == num_choices
    ended = [entry.finish_reason for entry in entries]
    assert ended == ["abort" if num_choices > MAX_RESUMED else ""] * num_choices
    for gateway in (first, again):
        gateway.close()
