"""Answers cut anywhere give the same content and calls; what is no call is content, all of it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from engine.server.tools.formats import FORMATS
from engine.server.tools.parser import CallParser

NAMES = {"weather", "time.now", "add"}
SPACES = st.sampled_from(["", " ", "\n", " \n\t"])
forms = st.sampled_from(sorted(FORMATS)).map(FORMATS.get)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[]:,<>/tool_call é😀', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
arguments = st.dictionaries(st.text(max_size=4), values, max_size=3)


def parse(form, text, cuts=()):
    """Content, and (name, arguments) of each call; told piece by piece."""
    parser = CallParser(form.marks, NAMES)
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    said = [*(parser.push(piece) for piece in pieces), parser.flush()]
    calls = []
    for one in said:
        for piece in one.calls:
            if piece.name is not None:
                assert piece.index == len(calls)
                calls.append([piece.name, ""])
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.arguments
    return "".join(one.content for one in said), calls


@st.composite
def calls_of(draw, form):
    """A call as a model may write it, and its arguments as they stand there."""
    name, spaces = draw(st.sampled_from(sorted(NAMES))), [draw(SPACES) for _ in range(4)]
    written = json.dumps(draw(arguments), ensure_ascii=draw(st.booleans()))
    members = [f'"name"{spaces[0]}:{spaces[1]}{json.dumps(name)}', f'"{form.key}": {written}']
    if draw(st.booleans()):
        members.reverse()
    members += draw(st.lists(st.sampled_from(['"id": "x{"', '"n": -1.5', '"o": [{}]']), max_size=2))
    return f"{{{spaces[2]}{', '.join(members)}{spaces[3]}}}", [name, written]


@st.composite
def answers(draw):
    form = draw(forms)
    calls = [draw(calls_of(form)) for _ in range(draw(st.integers(1, 3)))]
    before, behind = form.each_call
    body = form.between.join(before + written + behind for written, _ in calls)
    body = form.all_calls[0] + body + form.all_calls[1]
    content = "" if form.marks.at_start else draw(st.text("ab <{\n[T", max_size=9)).rstrip()
    space = draw(SPACES)
    cuts = draw(st.lists(st.integers(0, len(content + space + body)), max_size=6))
    return form, content + space + body, cuts, content, [called for _, called in calls]


@given(answers())
def test_calls_are_found_wherever_the_text_is_cut(drawn):
    form, text, cuts, content, calls = drawn
    assert parse(form, text, cuts) == (content, calls)


@given(form=forms, data=st.data())
def test_what_is_no_call_is_content(form, data):
    """Also markers without a call behind them, and calls of no tool."""
    parts = [
        *(form.marks.begin, form.marks.end, form.between, *form.all_calls, *form.each_call),
        *('{"name": "nobody", "arguments": {}}', '{"name": ["add"]}', '{"a": {"name": "add"}}'),
        *('{"name": "add", "arguments": [1]}', '{"arguments": {}}', "[{}]", "{", '"', "word", "\n"),
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=6)))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert parse(form, text, cuts) == (text, [])


@given(drawn=answers(), data=st.data())
def test_a_call_that_is_cut_off_is_told_as_far_as_it_came(drawn, data):
    form, text, _, _, calls = drawn
    end = data.draw(st.integers(0, len(text)))
    content, found = parse(form, text[:end])
    for (name, whole), (told, part) in zip(calls, found, strict=False):
        assert (told, part) == (name, whole[: len(part)])
    if not found:
        assert text[:end].startswith(content)


def test_a_forgotten_brace_swallows_nothing():
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}</tool_call>\n'
    text += '<tool_call>{"name": "time.now"}</tool_call> So.'
    calls = [["add", '{"a": 1}'], ["time.now", "{}"]]
    assert parse(FORMATS["hermes"], text) == (" So.", calls)


def test_the_name_is_told_before_the_arguments_are_there():
    parser = CallParser(FORMATS["hermes"].marks, NAMES)
    said = parser.push('Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"ci')
    assert said.content == "Let me see."
    [piece] = said.calls
    assert (piece.index, piece.name, piece.arguments) == (0, "weather", '{"ci')
    [piece] = parser.push('ty": "Rome"}').calls
    assert (piece.index, piece.name, piece.arguments) == (0, None, 'ty": "Rome"}')
