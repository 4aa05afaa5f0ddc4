"""The openai client against a true server: answers, streams, usage, refusals, memory."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from served import POSITIONS, Server, chat_ids, httpx, ids_of, make_chatting_checkpoint, text_of
from tiny_models import reference_tokens

CHAT = [{"role": "user", "content": "hi"}]
GREEDY = {"model": "tiny", "temperature": 0, "max_tokens": 12}
GROW = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Three instances; each pool holds 192 tokens."""
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("served") / "model")
    with Server(model, 3) as server:
        yield server
    assert "Traceback" not in server.said


def expected(server, ids, num_tokens=12):
    return text_of(reference_tokens(server.model, ids, num_tokens))


def test_models_health_and_version(server):
    assert [model.id for model in server.openai.models.list()] == ["tiny"]
    assert server.http.get("/version").json()["version"]
    server.wait_until(lambda: server.metric("lendkv:pool_blocks") == 72)


def test_chat_whole_and_streamed_are_the_same(server):
    whole = server.openai.chat.completions.create(messages=CHAT, **GREEDY)
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == expected(server, chat_ids("hi"))
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) == {
        "prompt_tokens": len(chat_ids("hi")),
        "completion_tokens": 12,
    }
    chunks = list(server.openai.chat.completions.create(messages=CHAT, stream=True, **GREEDY))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("options", [{}, {"include_usage": False}, {"include_usage": True}, None])
def test_usage_comes_in_a_last_chunk_without_choices_if_asked_for(server, options):
    chunks = list(
        server.openai.chat.completions.create(
            messages=CHAT, stream=True, stream_options=options, **GREEDY
        )
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])
    if options and options["include_usage"]:
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 12
    else:
        assert chunks[-1].usage is None
        assert chunks[-1].choices


def test_completions_take_text_and_token_ids(server):
    text = "The pool process is the heart."
    for prompt in (text, ids_of(text), [text]):
        answer = server.openai.completions.create(prompt=prompt, **GREEDY)
        assert answer.object == "text_completion"
        assert answer.choices[0].text == expected(server, ids_of(text))
        assert answer.usage.prompt_tokens == len(ids_of(text))
    stream = server.openai.completions.create(prompt=text, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected(server, ids_of(text))


def test_token_ids_come_along_if_asked_for(server):
    """Where vLLM has them: the prompt's beside a chat's choices, and in a completion's choice."""
    ids, extra = ids_of("token ids"), {"return_token_ids": True}
    said = reference_tokens(server.model, ids, 12)
    ask = server.openai.completions.create
    whole = ask(prompt="token ids", extra_body=extra, **GREEDY).choices[0]
    assert (whole.token_ids, whole.prompt_token_ids) == (said, ids)
    chunks = [c.choices[0] for c in ask(prompt=ids, stream=True, extra_body=extra, **GREEDY)]
    assert [token for chunk in chunks for token in chunk.token_ids] == said
    assert chunks[0].prompt_token_ids == ids
    assert not any(hasattr(chunk, "prompt_token_ids") for chunk in chunks[1:])

    chat = server.openai.chat.completions.create
    said = reference_tokens(server.model, chat_ids("hi"), 12)
    whole = chat(messages=CHAT, extra_body=extra, **GREEDY)
    assert (whole.choices[0].token_ids, whole.prompt_token_ids) == (said, chat_ids("hi"))
    chunks = list(chat(messages=CHAT, stream=True, extra_body=extra, **GREEDY))
    assert [token for chunk in chunks for token in chunk.choices[0].token_ids] == said
    assert chunks[0].prompt_token_ids == chat_ids("hi")
    assert not any(hasattr(chunk, "prompt_token_ids") for chunk in chunks[1:])
    assert not hasattr(chat(messages=CHAT, **GREEDY).choices[0], "token_ids")


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_answer_before_them(server, stream):
    whole = expected(server, ids_of("stop me"), 40)
    at = next(i for i in range(6, 30) if "\ufffd" not in whole[i : i + 2])
    stop = whole[at : at + 2]
    answer = server.openai.completions.create(
        prompt="stop me", stop=["never", stop], stream=stream, **GREEDY | {"max_tokens": 40}
    )
    choices = [part.choices[0] for part in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == whole[: whole.find(stop)]
    assert choices[-1].finish_reason == "stop"


def test_seed_repeats_an_answer_and_another_changes_it(server):
    def answer(seed):
        options = GREEDY | {"temperature": 1.5, "seed": seed}
        return server.openai.completions.create(prompt="seeds", **options).choices[0].text

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_answers_stop_at_the_models_positions(server):
    """A prompt that no single pool holds, too; null stands for what is not set."""
    ids = [token % 256 for token in range(400)]
    answer = server.openai.completions.create(
        prompt=ids, **GREEDY | {"max_tokens": 8}, extra_body={"stop": None, "ignore_eos": None}
    )
    assert answer.choices[0].text == expected(server, ids, 8)
    ids = ids[:20] * 2
    answer = server.openai.completions.create(prompt=ids, **GREEDY | {"max_tokens": 1})
    assert answer.usage.completion_tokens == 1


REFUSED = {
    "unknown model": ({"model": "gpt-9"}, openai.NotFoundError, "model"),
    "wrong type": ({"max_tokens": "many"}, openai.BadRequestError, "max_tokens"),
    "wrong type of messages": ({"messages": "hello"}, openai.BadRequestError, "messages"),
    "no messages": ({"messages": []}, openai.BadRequestError, "messages"),
    "a message without a role": ({"messages": [{}]}, openai.BadRequestError, "messages.0.role"),
    "negative max_tokens": ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
    "temperature": ({"temperature": -0.1}, openai.BadRequestError, "temperature"),
    "n": ({"n": 65}, openai.BadRequestError, "n"),
    "logprobs": ({"logprobs": True, "top_logprobs": 21}, openai.BadRequestError, "top_logprobs"),
    "tools": ({"tools": [{"type": "function"}]}, openai.BadRequestError, None),
    "usage of no stream": ({"stream_options": {}}, openai.BadRequestError, None),
    "beyond the positions": (
        {"messages": [{"role": "user", "content": "x" * POSITIONS}]},
        openai.BadRequestError,
        None,
    ),
    "beyond the cluster": (
        {"messages": [{"role": "user", "content": "x" * 700}]},
        openai.BadRequestError,
        None,
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_the_clients_own_exceptions(server, name, stream):
    change, kind, param = REFUSED[name]
    if stream and "stream_options" in change:
        pytest.skip("allowed in a stream")
    body = {"messages": CHAT, **GREEDY, "stream": stream} | change
    with pytest.raises(kind) as caught:
        server.openai.post("/chat/completions", body=body, cast_to=httpx.Response)
    error = caught.value.response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    if param:
        assert error["param"] == param
    assert error["type"] == "invalid_request_error"


RAW = {
    "malformed JSON": ("POST", "/v1/chat/completions", b'{"model": ', {}, 400),
    "no JSON object": ("POST", "/v1/completions", b"[1, 2]", {}, 400),
    "deep JSON": ("POST", "/v1/completions", b"[" * 40_000, {}, 400),
    "a long number": ("POST", "/v1/completions", b"9" * 40_000, {}, 400),
    "no UTF-8": ("POST", "/v1/completions", b'{"model": "\xff"}', {}, 400),
    "no body": ("POST", "/v1/completions", b"", {}, 400),
    "a huge body": ("POST", "/v1/completions", b" " * 50_001, {}, 413),
    "unknown route": ("GET", "/v1/nothing", b"", {}, 404),
    "wrong method": ("GET", "/v1/completions", b"", {}, 405),
    "unknown stream": ("GET", "/v1/streams/cmpl-0", b"", {}, 404),
    "odd event id": (
        "GET",
        "/v1/streams/x",
        b"",
        {"Last-Event-ID": "x:\u00b2".encode("latin-1")},
        404,
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_what_no_client_should_send_gets_an_error_object(server, name):
    method, path, body, headers, status = RAW[name]
    headers = {"content-type": "application/json", **headers}
    answer = server.http.request(method, path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_chunked_bodies_are_refused(server):
    answer = server.http.post("/v1/completions", content=iter([b"{}"]))
    assert answer.status_code == 411
    assert answer.json()["error"]["message"]


def test_eight_clients_at_once_get_what_transformers_says_and_leave_no_block(server):
    prompts = [
        [(7 * client + 3 * token) % 256 for token in range(length)]
        for client, length in enumerate((5, 260, 40, 120, 9, 230, 64, 17))
    ]
    lengths = [40, 12, 24, 16, 48, 8, 20, 32]

    def ask(client):
        stream = server.openai.completions.create(
            prompt=prompts[client], stream=True, **GREEDY | {"max_tokens": lengths[client]}
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    for client, answer in enumerate(answers):
        assert answer == expected(server, prompts[client], lengths[client]), client
    server.wait_until(lambda: server.idle(spare=GROW))
    # the load travels with the next heartbeat, the free blocks are looked up
    server.wait_until(lambda: server.metric("vllm:num_requests_running") == 0)


@pytest.mark.parametrize(
    ("stream", "before_the_first_token"), [(True, True), (True, False), (False, False)]
)
def test_a_client_that_leaves_frees_the_blocks(server, stream, before_the_first_token):
    aborted = server.num_aborted()
    ids = [5] * (300 if before_the_first_token else 20)
    body = {
        "model": "tiny",
        "prompt": ids,
        "max_tokens": 150 if before_the_first_token else 400,
        "stream": stream,
    }
    guard = httpx.Timeout(60, read=0.05 if before_the_first_token or not stream else 60)
    with httpx.Client(base_url=server.url, timeout=guard) as client:
        try:
            with client.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
        except httpx.ReadTimeout:
            assert before_the_first_token or not stream
    server.wait_until(lambda: server.num_aborted() > aborted)
    server.wait_until(lambda: server.idle(spare=GROW))


def test_each_instance_answers_by_itself(server):
    for instance in range(3):
        client = server.client(instance)
        answer = client.completions.create(prompt="alone", **GREEDY)
        assert answer.choices[0].text == expected(server, ids_of("alone"))
        cards = httpx.get(f"http://127.0.0.1:{server.port + 1 + instance}/health").json()
        assert [card["instance"] for card in cards["instances"]] == [instance]
