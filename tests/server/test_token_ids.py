"""Protects a stream's events: numbers, texts and token ids, from the beginning or from anywhere.

No server runs: a gateway that has the whole answer already.
"""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import byte_tokenizer

from engine.core import Request
from engine.model.tokenizer import Tokenizer
from engine.scheduler.entry import Entry
from engine.server.choices import Choices
from engine.server.journal import Terms
from engine.server.teller import Teller

SMILE = byte_tokenizer().encode("a\N{GRINNING FACE}b").ids
"""six tokens; the four in the middle are one letter"""


class Answered:
    """What Completions needs of a gateway."""

    def __init__(self, token_ids, terms):
        request = Request(request_id="r", prompt_ids=(7, 8, 9))
        self.entry = Entry(request, 0.0, token_ids=list(token_ids), finish_reason="length")
        self.terms = {"r": terms}

    async def follow(self, entry, start=0):
        for index, token in enumerate(entry.token_ids):
            yield index, token

    def finish(self, request_id, reason):
        self.entry.finish_reason = reason


def events(answer, told=-1, **terms):
    """(number, choice or None, body) of each event but the last, which is [DONE]."""
    gateway = Answered(answer, Terms(**terms))
    teller = Teller(gateway, Tokenizer(byte_tokenizer(), None), model="m")

    async def collect():
        return [one async for one in teller.stream(Choices("r", [gateway.entry]), [told])]

    *told_events, done = asyncio.run(collect())
    assert done == "data: [DONE]\n\n"
    found = []
    for one in told_events:
        head, data = one.removesuffix("\n\n").split("\n")
        body = json.loads(data.removeprefix("data: "))
        found.append((int(head.removeprefix("id: r:")), (body["choices"] or [None])[0], body))
    return found


def test_who_does_not_ask_gets_no_ids_and_no_event_without_text():
    found = events(SMILE)
    assert [(number, choice["text"]) for number, choice, _ in found] == [
        (0, ""),
        (1, "a"),
        (5, "\N{GRINNING FACE}"),
        (6, "b"),
        (8, ""),
    ]
    assert not any("token_ids" in choice for _, choice, _ in found)


@pytest.mark.parametrize("chat", [False, True])
def test_who_asks_gets_each_token_in_its_event_and_the_prompts_in_the_first(chat):
    found = events(SMILE, chat=chat, token_ids=True)
    assert [choice["token_ids"] for _, choice, _ in found] == [[], *([one] for one in SMILE), []]
    has_prompt = [body.get("prompt_token_ids") for _, _, body in found]
    in_choice = [choice.get("prompt_token_ids") for _, choice, _ in found]
    first, none = [[7, 8, 9], *[None] * 7], [None] * 8
    assert (has_prompt, in_choice) == ((first, none) if chat else (none, first))


@given(
    token_ids=st.lists(st.sampled_from(SMILE), max_size=8),
    stops=st.sampled_from([[], ["b"], ["ab"], ["\N{GRINNING FACE}"]]),
    usage=st.booleans(),
    ids=st.booleans(),
    told=st.integers(-1, 12),
)
def test_who_comes_back_gets_exactly_what_follows(token_ids, stops, usage, ids, told):
    terms = {"stops": stops, "usage": usage, "token_ids": ids}
    whole = events(token_ids, **terms)
    numbers = [number for number, _, _ in whole]
    assert numbers == sorted(set(numbers)), "no two events share a number"
    again = events(token_ids, told, **terms)
    key = [(number, choice) for number, choice, _ in whole if number > told]
    assert [(number, choice) for number, choice, _ in again] == key
    if ids:
        said = [token for _, choice, _ in whole if choice for token in choice["token_ids"]]
        assert said == token_ids[: len(said)]
        assert stops or said == token_ids
