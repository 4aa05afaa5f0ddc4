"""Whatever grammar a client asks for is taken or refused with a reason; none crashes or hangs."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from instant import build, send
from tiny_checkpoint import byte_tokenizer

from engine.errors import GrammarError
from engine.model.grammar import Compiler, compiling_thread
from engine.model.tokenizer import Tokenizer
from engine.server.json_schema import grammar_of_schema
from engine.server.structured import StructuredOutputs, grammar_of

KEYWORDS = [
    *("type", "properties", "required", "items", "prefixItems", "anyOf", "oneOf", "allOf", "not"),
    *(
        "enum",
        "const",
        "pattern",
        "format",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "$defs",
    ),
    *(
        "exclusiveMinimum",
        "multipleOf",
        "minItems",
        "maxItems",
        "uniqueItems",
        "$ref",
        "if",
        "then",
    ),
    *("additionalProperties", "patternProperties", "contains", "x-guidance", "title"),
]
text = st.text(st.characters(exclude_categories=[]), max_size=6) | st.sampled_from(
    [
        "string",
        "object",
        "array",
        "integer",
        "#",
        "#/$defs/a",
        "#/properties/a",
        "(",
        "^a+$",
        "date",
    ]
)
value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | text, inner, max_size=4)
    ),
    max_leaves=10,
)
schema = st.dictionaries(st.sampled_from(KEYWORDS), value, min_size=1, max_size=5)
LARK = st.lists(
    st.sampled_from(
        ["start:", "root ::=", "a", ":", "|", '"x"', "/[a/", "/a+/", "(", ")", "*", "\n", "<[3]>"]
        + ["{2,9}", "%json", "{}", "%regex", "@a", "[lazy]", "<end>", '"', "start", "~5", "[^a-c]"]
    ),
    max_size=10,
).map(" ".join)
outputs = st.one_of(
    schema.map(lambda one: {"json": one}),
    st.text(max_size=12).map(lambda one: {"json": one}),
    (st.text(max_size=12) | LARK).map(lambda one: {"regex": one}),
    (st.text(max_size=12) | LARK).map(lambda one: {"grammar": one}),
    st.lists(st.text(max_size=5), max_size=3).map(lambda one: {"choice": one}),
    value,
)


@pytest.fixture(scope="module")
def app():
    return build(max_body_bytes=200_000)


def refused_or_taken(app, body):
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 3} | body
    answer = send(app, "POST", "/v1/completions", json.dumps(body).encode())
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        message = answer.json()["error"]["message"]
        assert message
        assert len(message) < 1000
    event(str(answer.status_code))


@given(schema=schema)
def test_any_schema(app, schema):
    form = {"type": "json_schema", "json_schema": {"name": "any", "schema": schema}}
    refused_or_taken(app, {"response_format": form})


@given(outputs=outputs)
def test_any_structured_outputs(app, outputs):
    refused_or_taken(app, {"structured_outputs": outputs})


def _nested(levels):
    inner = {"type": "integer"}
    for _ in range(levels):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


def _chain(rule, length):
    rules = [rule.format(n, n + 1) for n in range(length)]
    return "\n".join([*rules, rule.partition(":")[0].format(length) + ': "x"'])


HARD = {
    "nested repetitions": {"regex": "((a{0,1000}){0,1000}b){0,1000}"},
    "ambiguous": {"regex": "(a|b|ab|ba|aab){1,500}c{3,900}"},
    "all of Unicode": {"regex": r"(\w{1,300}\d{2,200}){1,50}"},
    "a far lookbehind": {"regex": "(.*a.{18}b)(.*c.{18}d)"},
    "endless rules": {"grammar": 'start: start start | "a" | '},
    "many rules": {"grammar": "start: " + " | ".join(f'"{n}" a' for n in range(4000)) + '\na: "b"'},
    "many properties": {
        "json": {"properties": {f"p{n}": {"pattern": "^a*$"} for n in range(1500)}}
    },
    "many values": {"json": {"enum": [f"value {n}" for n in range(7000)]}},
    "many of many": {
        "json": {
            "allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(9)]} for i in range(9)]
        }
    },
    "deep": {"json": _nested(60)},
    "a chain of rules": {"grammar": f"start: a0\n{_chain('a{}: a{}', 9000)}"},
    "a chain of terminals": {"grammar": f"start: A0\n{_chain('A{}: A{}', 9000)}"},
    "a chain of schemas": {
        "json": {
            "$defs": {f"a{n}": {"items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(3000)}
            | {"a3000": {}},
            "$ref": "#/$defs/a0",
        }
    },
    "recursive": {"json": {"$ref": "#", "type": "array", "items": {"$ref": "#"}}},
    "many ranges": {
        "json": {
            "items": {
                "anyOf": [
                    {"type": "number", "minimum": n * 1.37, "maximum": n * 79.7} for n in range(300)
                ]
            }
        }
    },
}


@pytest.mark.parametrize("name", HARD)
def test_hard_grammars_come_to_an_end(name):
    """Compiled, or refused; and each token found, or the answer given up, within bounds."""
    tokenizer = Tokenizer(byte_tokenizer(), None)
    numbers = np.random.default_rng(0)
    with suppress(GrammarError):
        grammar = grammar_of(StructuredOutputs(**HARD[name]))
        compiler = Compiler(lambda: tokenizer, vocab_size=256)
        with compiling_thread() as thread:
            matcher = thread.submit(compiler.matcher, grammar).result()
        for _ in range(200):
            if matcher.take(int(numbers.choice(np.flatnonzero(matcher.allowed())))):
                break


ENDLESS = {
    "doubled": {"grammar": f"start: A0\n{_chain('A{0}: A{1} A{1}', 2000)}"},
    "a large factor": {"json": {"type": "integer", "multipleOf": 99_999_989}},
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_grammar_that_takes_for_ever_is_refused_and_the_next_one_taken(app, name):
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 3, "structured_outputs": ENDLESS[name]}
    answer = send(app, "POST", "/v1/completions", json.dumps(body).encode())
    assert answer.status_code in (400, 413), answer.text
    body["structured_outputs"] = {"regex": "[a-z]"}
    assert send(app, "POST", "/v1/completions", json.dumps(body).encode()).status_code == 200


def test_options_in_a_schema_do_not_loosen_it():
    compiler = Compiler(lambda: Tokenizer(byte_tokenizer(), None), vocab_size=256)
    loose = {"x-guidance": {"lenient": True}, "not": {"type": "null"}}
    with pytest.raises(GrammarError, match="Unimplemented keys"):
        compiler.matcher(grammar_of_schema(loose))
