"""What vLLM's clients send beside OpenAI's parameters: the prompt and the text that they expect."""

import json

import instant
import pytest
from instant import InstantGateway, build, send
from served import byte_tokenizer
from tokenizers import processors

MODEL = {"model": "tiny"}
BEGIN, END = 256, 257


def special_tokenizer():
    """Each prompt begins with <begin>; <end> is no text either."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<begin>", "<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", BEGIN)]
    )
    return tokenizer


def ask(gateway, path, body, status=200, **options):
    answer = send(
        build(gateway, vocab_size=300, **options), "POST", path, json.dumps(MODEL | body).encode()
    )
    assert answer.status_code == status, answer.text
    return answer.json()


def prompt_of(gateway):
    (entry,) = gateway.table.entries.values()
    return list(entry.request.prompt_ids)


@pytest.mark.parametrize(("skip", "text"), [(None, "b!c"), (True, "b!c"), (False, "b!<end>c")])
@pytest.mark.parametrize("stream", [False, True])
def test_special_tokens_are_told_when_they_are_wanted(monkeypatch, skip, text, stream):
    monkeypatch.setattr(instant, "byte_tokenizer", special_tokenizer)
    ids = [byte_tokenizer().token_to_id(letter) for letter in "b!c"]
    gateway = InstantGateway([*ids[:2], END, ids[2]])
    body = json.dumps(MODEL | {"prompt": "a", "skip_special_tokens": skip, "stream": stream})
    answer = send(build(gateway, vocab_size=300), "POST", "/v1/completions", body.encode()).text
    lines = [line[6:] for line in answer.splitlines() if line.startswith("data: {")]
    bodies = [json.loads(one) for one in lines or [answer]]
    assert "".join(one["choices"][0]["text"] for one in bodies) == text


@pytest.mark.parametrize(
    ("most", "kept"), [(None, "abcdef"), (3, "ef"), (1, ""), (7, "abcdef"), (40, "abcdef")]
)
def test_of_a_text_its_end_is_kept_behind_what_begins_each_prompt(monkeypatch, most, kept):
    monkeypatch.setattr(instant, "byte_tokenizer", special_tokenizer)
    gateway = InstantGateway()
    ask(gateway, "/v1/completions", {"prompt": "abcdef", "truncate_prompt_tokens": most})
    assert prompt_of(gateway) == [BEGIN, *byte_tokenizer().encode(kept).ids]


def test_of_token_ids_the_last_are_kept_and_echoed():
    gateway = InstantGateway()
    ids = byte_tokenizer().encode("abcdef").ids
    body = {"prompt": ids, "truncate_prompt_tokens": 2, "echo": True}
    answer = ask(gateway, "/v1/completions", body)
    assert prompt_of(gateway) == ids[-2:]
    assert answer["choices"][0]["text"].startswith("ef")
    assert answer["usage"]["prompt_tokens"] == 2


def test_a_text_that_is_truncated_is_echoed_as_what_is_left():
    gateway = InstantGateway()
    body = {"prompt": "abcdef", "truncate_prompt_tokens": 2, "echo": True, "max_tokens": 0}
    assert ask(gateway, "/v1/completions", body)["choices"][0]["text"] == "ef"


@pytest.mark.parametrize(("max_tokens", "num_kept"), [(None, 39), (10, 30)])
def test_minus_one_leaves_room_for_the_answer(max_tokens, num_kept):
    """40 positions; a text of any length."""
    gateway = InstantGateway()
    messages = [{"role": "user", "content": "x" * 3000}]
    body = {"messages": messages, "truncate_prompt_tokens": -1, "max_tokens": max_tokens}
    ask(gateway, "/v1/chat/completions", body)
    assert len(prompt_of(gateway)) == num_kept


@pytest.mark.parametrize(("most", "said"), [(0, "above 0"), (41, "40 positions"), (-2, "-1")])
def test_a_number_that_cannot_be_is_refused(most, said):
    body = {"prompt": "a", "truncate_prompt_tokens": most}
    refused = ask(InstantGateway(), "/v1/completions", body, 400)
    assert said in refused["error"]["message"]


@pytest.fixture
def template(monkeypatch):
    """A template with a variable, which knows tools."""
    source = "{{ style | default('plain') }}{% for t in tools or [] %}{{ t.function.name }}"
    source += "{% endfor %}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    monkeypatch.setattr(instant, "TEMPLATE", source)


def text_of(ids):
    return byte_tokenizer().decode(ids)


@pytest.mark.parametrize(
    ("arguments", "said"), [({}, "plainhi"), ({"style": "bold", "unknown": 1}, "boldhi")]
)
def test_a_chat_template_gets_its_variables(template, arguments, said):
    gateway, messages = InstantGateway(), [{"role": "user", "content": "hi"}]
    body = {"messages": messages, "chat_template_kwargs": arguments}
    ask(gateway, "/v1/chat/completions", body)
    assert text_of(prompt_of(gateway)) == said
    assert text_of(ask(InstantGateway(), "/tokenize", body)["tokens"]) == said


@pytest.mark.parametrize("style", [0, "x", [], {"a": None}])
def test_a_variable_that_its_template_cannot_take_is_the_clients_mistake(monkeypatch, style):
    monkeypatch.setattr(instant, "TEMPLATE", "{{ 1 // style }}")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    body["chat_template_kwargs"] = {"style": style}
    refused = ask(InstantGateway(), "/v1/chat/completions", body, 400)
    assert "The chat template refuses" in refused["error"]["message"]


def test_tokens_of_a_chat_with_tools_are_those_of_its_prompt(template):
    tool = {"type": "function", "function": {"name": "look"}}
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    assert text_of(ask(InstantGateway(), "/tokenize", body)["tokens"]) == "plainlookhi"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_what_is_said_elsewhere_is_no_variable(path):
    body = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"tools": []}}
    refused = ask(InstantGateway(), path, body, 400)
    assert "['tools'] are given to the template already" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"best_of": 3, "n": 2}, "best_of is 3 and n is 2"),
        ({"best_of": 0}, "best_of is 0"),
        ({"suffix": "end"}, "before, around and behind the gap"),
        ({"use_beam_search": True}, "only sampling"),
        ({"guided_regex": "a+"}, "structured_outputs, such as {'regex': ...}"),
    ],
)
def test_what_would_change_the_answer_is_refused_with_what_to_do_instead(body, said):
    refused = ask(InstantGateway(), "/v1/completions", {"prompt": "a", **body}, 400)
    assert said in refused["error"]["message"]


@pytest.mark.parametrize("body", [{"best_of": 2, "n": 2}, {"best_of": 1, "n": 3}, {"suffix": ""}])
def test_what_changes_nothing_is_taken(body):
    answered = ask(InstantGateway(), "/v1/completions", {"prompt": "a", **body})
    assert len(answered["choices"]) == body.get("n", 1)
