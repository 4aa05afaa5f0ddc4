"""How answers tell logprobs, echoes, choices, stops and ids; a gateway answers at once."""

import json

import pytest
from instant import InstantGateway, build, send
from served import byte_tokenizer

from engine.model.generation import GenerationDefaults
from engine.model.token_names import TokenNames

SAID = [65, 250, 66]
"""what the gateway always answers, with a Score of -id/8"""


@pytest.fixture
def gateway():
    return InstantGateway()


@pytest.fixture
def app(gateway):
    return build(gateway)


def post(app, path="completions", headers=None, status=200, **body):
    body = {"model": "tiny", "max_tokens": 3} | body
    answer = send(app, "POST", f"/v1/{path}", json.dumps(body).encode(), headers)
    assert answer.status_code == status, answer.text
    return answer


def chunks(answer):
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.rpartition("data: ")[2]) for event in events]


def names(ids):
    told = TokenNames(byte_tokenizer())
    return [told.text(one) for one in ids]


def joined(pieces):
    """The logprobs of a completion's chunks as those of a whole one."""
    return {key: [one for piece in pieces for one in piece[key]] for key in pieces[0]}


def test_logprobs_of_a_completion_are_the_same_whole_and_streamed(app):
    whole = post(app, prompt=[1, 2, 3], logprobs=2).json()["choices"][0]["logprobs"]
    assert whole["tokens"] == names(SAID)
    assert whole["token_logprobs"] == [-one / 8 for one in SAID]
    part, b = names([250, 65])
    assert whole["top_logprobs"] == [{part: 0.0, b: -65 / 8}, {part: 0.0}, {part: 0.0, "c": -8.25}]
    events = chunks(post(app, prompt=[1, 2, 3], logprobs=2, stream=True))
    told = [event["choices"][0] for event in events]
    assert [len((choice["logprobs"] or {"tokens": []})["tokens"]) for choice in told] == [
        *(0, 1, 1, 1),
        *[0] * (len(told) - 4),
    ]
    assert joined([choice["logprobs"] for choice in told if choice["logprobs"]]) == whole


def test_logprobs_of_a_chat_have_bytes_and_the_likeliest(app):
    messages = [{"role": "user", "content": "hi"}]
    asked = {"messages": messages, "logprobs": True, "top_logprobs": 2}
    whole = post(app, "chat/completions", **asked).json()["choices"][0]["logprobs"]["content"]
    assert [one["logprob"] for one in whole] == [-one / 8 for one in SAID]
    assert [one["token"] for one in whole] == names(SAID)
    assert all(len(one["top_logprobs"]) == 2 for one in whole)
    assert all(bytes(one["bytes"]).decode(errors="replace") == one["token"] for one in whole)
    told = chunks(post(app, "chat/completions", **asked, stream=True))
    pieces = [one["choices"][0]["logprobs"] for one in told]
    assert [one for piece in pieces if piece for one in piece["content"]] == whole
    post(app, "chat/completions", messages=messages, top_logprobs=2, status=400)


def test_what_lm_eval_asks_for_can_be_read_as_it_reads_it(app):
    prompts = [[7, 8, 9, 10], [11, 12]]
    body = post(app, prompt=prompts, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1)
    choices = body.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for choice, prompt in zip(choices, prompts, strict=True):
        told = choice["logprobs"]
        assert told["token_logprobs"] == [None, *(-one / 8 for one in prompt[1:]), -65 / 8]
        assert told["top_logprobs"][0] is None
        assert [max(top.values()) for top in told["top_logprobs"][1:]] == [0.0] * len(prompt)
        assert told["tokens"] == names([*prompt, 65])
        assert "".join(told["tokens"]) == choice["text"] or "\ufffd" in choice["text"]
        assert len(told["text_offset"]) == len(prompt) + 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_without_an_answer_is_the_prompt(app, stream):
    answer = post(app, prompt="hello", max_tokens=0, echo=True, logprobs=0, stream=stream)
    bodies = chunks(answer) if stream else [answer.json()]
    choices = [body["choices"][0] for body in bodies]
    assert "".join(choice["text"] for choice in choices) == "hello"
    told = joined([choice["logprobs"] for choice in choices if choice["logprobs"]])
    assert told["tokens"] == list("hello")
    assert told["text_offset"] == [0, 1, 2, 3, 4]
    assert choices[-1]["finish_reason"] == "length"
    if not stream:
        assert bodies[0]["usage"]["completion_tokens"] == 0


def test_prompt_logprobs_are_told_as_in_vllm(app):
    told = post(app, prompt=[1, 2, 250], prompt_logprobs=1).json()["choices"][0]["prompt_logprobs"]
    assert told[0] is None
    assert told[1]["2"] == {"logprob": -0.25, "rank": 3, "decoded_token": names([2])[0]}
    assert told[1]["250"]["rank"] == 1
    assert set(told[2]) == {"250"}
    post(app, prompt="hi", prompt_logprobs=1, stream=True, status=400)


@pytest.mark.parametrize("stream", [False, True])
def test_choices_of_prompts_have_their_index_and_their_own_seeds(app, gateway, stream):
    options = {"stream_options": {"include_usage": True}} if stream else {}
    answer = post(app, prompt=["ab", [1, 2, 3]], n=3, seed=5, stream=stream, **options)
    *bodies, last = chunks(answer) if stream else [answer.json()] * 2
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 18)
    by_index = {}
    for body in bodies:
        assert body["id"] == bodies[0]["id"]
        for choice in body["choices"]:
            by_index[choice["index"]] = by_index.get(choice["index"], "") + choice["text"]
    assert len(set(by_index.values())) == 1
    assert sorted(by_index) == list(range(6))
    requests = [entry.request for entry in gateway.table.entries.values()]
    assert [len(request.prompt_ids) for request in requests] == [2, 2, 2, 3, 3, 3]
    seeds = [request.sampling.seed for request in requests]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert seeds[:3] == seeds[3:]


def test_ids_of_requests_come_back_and_are_not_shared(app, gateway):
    answer = post(app, prompt="hi", request_id="mine")
    assert (answer.json()["id"], answer.headers["x-request-id"]) == ("cmpl-mine", "mine")
    answer = post(app, prompt="hi", headers={"x-request-id": "other"}, request_id="mine")
    assert (answer.json()["id"], answer.headers["x-request-id"]) == ("cmpl-other", "other")
    answer = post(app, prompt="hi", headers={"x-request-id": "other"}, stream=True, n=2)
    assert answer.headers["x-request-id"] == "other"
    post(app, prompt="hi", headers={"x-request-id": "o t"}, status=400)
    for name in ("cmpl-mine", "cmpl-mine/0"):
        with gateway.attend(name):
            post(app, prompt="hi", request_id="mine", status=409)


def test_a_stop_is_told_with_its_reason_and_kept_if_wanted(app):
    text = post(app, prompt="hi").json()["choices"][0]["text"]
    stop = text[1]
    for keep in (False, True):
        asked = {"stop": ["zz", stop], "include_stop_str_in_output": keep}
        choice = post(app, prompt="hi", **asked).json()["choices"][0]
        assert choice["text"] == text[: 1 + keep]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
        told = [one["choices"][0] for one in chunks(post(app, prompt="hi", **asked, stream=True))]
        assert "".join(one["text"] for one in told) == choice["text"]
        assert told[-1]["stop_reason"] == stop


def test_tokens_go_in_and_come_out(app):
    body = {"prompt": "hello", "return_token_strs": True}
    told = send(app, "POST", "/tokenize", json.dumps(body).encode()).json()
    assert (told["count"], told["max_model_len"], told["token_strs"]) == (5, 40, list("hello"))
    back = send(app, "POST", "/detokenize", json.dumps({"tokens": told["tokens"]}).encode())
    assert back.json() == {"prompt": "hello"}
    messages = [{"role": "user", "content": "hi", "name": "x"}]
    told = send(app, "POST", "/tokenize", json.dumps({"messages": messages}).encode()).json()
    back = send(app, "POST", "/detokenize", json.dumps({"tokens": told["tokens"]}).encode())
    assert back.json()["prompt"] == "<user>hix\n"
    both = json.dumps(body | {"messages": messages}).encode()
    assert send(app, "POST", "/tokenize", both).status_code == 400


def test_the_models_own_defaults_hold_where_the_client_says_nothing(gateway):
    own = GenerationDefaults(temperature=0.5, top_k=7, repetition_penalty=1.25)
    app = build(gateway, defaults=own)
    post(app, prompt="hi", request_id="a")
    post(app, prompt="hi", request_id="b", temperature=0, top_k=-1)
    found = [gateway.table.entries[f"cmpl-{name}"].request.sampling for name in "ab"]
    assert [(one.temperature, one.top_k) for one in found] == [(0.5, 7), (0, 0)]
    assert [one.repetition_penalty for one in found] == [1.25, 1.25]
