"""Answers that must match a grammar, of a model of random weights: those that end do match it."""

import json
import re

import jsonschema
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from random_schemas import schemas
from tiny_checkpoint import byte_tokenizer
from tiny_models import make_tiny

from engine import LLM
from engine.core import Request, SamplingParams
from engine.errors import GrammarError, LendKVError
from engine.model.grammar import Compiler
from engine.server.json_schema import grammar_of_schema
from engine.server.structured import StructuredOutputs, grammar_of

MOST = 300


def answers(llm, grammar, *, number=2, **params):
    params = {"max_tokens": MOST, "temperature": 1.0, "grammar": grammar} | params
    return llm.generate([f"prompt {n}" for n in range(number)], SamplingParams(**params))


def grammar(**wanted):
    return grammar_of(StructuredOutputs(**wanted))


def compiles(llm, text):
    try:
        Compiler(lambda: llm.checkpoint.tokenizer, vocab_size=256).matcher(text)
    except GrammarError:
        return False
    return True


@given(schema=schemas, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_json_that_ends_is_valid(llm, schema, seed):
    text = grammar_of_schema(schema)
    assume(compiles(llm, text))
    for answer in answers(llm, text, seed=seed):
        event(answer.finish_reason)
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.text), schema)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("regex", ["(yes|no)", r"[a-f]{3}-\d{2,5}", "a*b+c?", "[а-я]😀", "x[^z]+z"])
def test_a_regex_is_matched_as_a_whole(llm, regex, temperature):
    ended = [
        answer.text
        for seed in range(3)
        for answer in answers(llm, grammar(regex=regex), temperature=temperature, seed=seed)
        if answer.finish_reason == "stop"
    ]
    assert all(re.fullmatch(regex, text) for text in ended), ended
    assert ended or temperature == 0  # the most likely token may go on for ever


def test_of_choices_one_is_made(llm):
    choices = ["yes", "yes, but", 'quo"te', "line\nbreak", "ключ", "😀", "back\\slash/"]
    found = {
        answer.text
        for seed in range(8)
        for answer in answers(llm, grammar(choice=choices), number=4, seed=seed)
    }
    assert found <= set(choices)
    assert len(found) > 4


@pytest.mark.parametrize(
    "text", ['start: "a" digit+ "z"\ndigit: /[0-9]/', 'root ::= "a" [0-9]+ "z"']
)
def test_a_grammar_is_followed_in_either_language(llm, text):
    for answer in answers(llm, grammar(grammar=text), number=4):
        assert re.fullmatch("a[0-9]+z", answer.text)
        assert answer.finish_reason == "stop"


def test_an_answer_that_is_cut_ends_by_its_length(llm):
    for answer in answers(llm, grammar(regex="[a-z]{50}"), max_tokens=20):
        assert re.fullmatch("[a-z]{20}", answer.text)
        assert answer.finish_reason == "length"


def test_company_changes_no_token(llm):
    """Constrained or not: each has the tokens that it has alone."""
    ways = ["", grammar(regex="[a-z ]{40,90}"), "", grammar_of_schema({"type": "object"})]
    wanted = [answers(llm, way, max_tokens=60, number=1)[0].token_ids for way in ways]
    requests = [
        Request(
            request_id=f"together {number}",
            prompt_ids=tuple(llm.checkpoint.tokenizer.encode("prompt 0")),
            sampling=SamplingParams(max_tokens=60, temperature=1.0, grammar=way),
        )
        for number, way in enumerate(ways)
    ]
    together = [llm.submit(request) for request in requests]
    for _ in llm.run():
        pass
    assert [answer.token_ids for answer in together] == wanted


@given(cut=st.integers(0, 19), temperature=st.sampled_from([0.0, 1.0]))
@settings(max_examples=10)
def test_an_answer_goes_on_behind_the_tokens_that_came(llm, cut, temperature):
    items = {"type": "integer", "minimum": 0}
    way = grammar_of_schema({"type": "array", "items": items, "minItems": 9})
    [whole] = answers(llm, way, max_tokens=60, temperature=temperature, number=1)
    again = llm.submit(
        Request(
            request_id="again",
            prompt_ids=tuple(llm.checkpoint.tokenizer.encode("prompt 0")),
            answer_ids=tuple(whole.token_ids[:cut]),
            sampling=SamplingParams(max_tokens=60, temperature=temperature, grammar=way),
        )
    )
    for _ in llm.run():
        pass
    assert again.token_ids == whole.token_ids[cut:]
    assert again.finish_reason == whole.finish_reason


def test_the_end_of_the_sequence_comes_where_the_grammar_allows_it(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<end>"])
    make_tiny(tmp_path, vocab=257, eos_token_id=256, initializer_range=0.05)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    llm = LLM(None, f"model.path={tmp_path}", "model.dtype=float32")
    way = grammar(regex="[a-c]{3,}")
    ends = set()
    for seed in range(5):
        for answer in answers(llm, way, seed=seed, number=3, max_tokens=60):
            assert re.fullmatch("[a-c]{3,}", answer.text)
            assert (answer.token_ids[-1] == 256) == (answer.finish_reason == "stop")
            ends.add(answer.finish_reason)
    assert "stop" in ends
    for answer in answers(llm, way, ignore_eos=True, max_tokens=60):
        assert answer.finish_reason == "length"
        assert re.fullmatch("[a-c]{60}", answer.text)
    llm.close()


def test_who_cannot_go_on_fails_alone(tmp_path):
    """The tokenizer has 256 tokens and the model 128: none of those that begin a smiley."""
    byte_tokenizer().save(str(make_tiny(tmp_path, vocab=128) / "tokenizer.json"))
    llm = LLM(None, f"model.path={tmp_path}", "model.dtype=float32")
    ways = {
        "bad": grammar(choice=["ab😀"]),
        "worse": "start: no such rule",
        "good": grammar(regex="[a-z]{30}"),
    }
    said = {
        name: llm.submit(
            Request(
                request_id=name,
                prompt_ids=(1, 2, 3),
                sampling=SamplingParams(max_tokens=40, temperature=1.0, grammar=way),
            )
        )
        for name, way in ways.items()
    }
    for _ in llm.run():
        pass
    assert said["bad"].error == "no token of this model continues the answer as its grammar wants"
    assert "unknown name" in said["worse"].error
    assert (len(said["good"].token_ids), said["good"].finish_reason) == (30, "stop")
    llm.check()
    llm.close()


def test_a_model_without_a_tokenizer_says_so(tmp_path):
    llm = LLM(None, f"model.path={make_tiny(tmp_path)}", "model.dtype=float32")
    with pytest.raises(LendKVError, match="no tokenizer.json"):
        llm.generate([[1, 2]], SamplingParams(grammar=grammar(choice=["a"])))
    llm.close()
