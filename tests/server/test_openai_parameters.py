"""The openai client's parameters through a true server; numbers are those of transformers.

Three instances whose pools are too small for the longer prompts: their keys are lent.
"""

import asyncio
import json
import math

import pytest
import torch
from openai import AsyncOpenAI
from served import (
    BLOCK_TOKENS,
    Server,
    byte_tokenizer,
    chat_ids,
    ids_of,
    make_chatting_checkpoint,
    text_of,
)
from tiny_models import reference_logits

from engine.model.token_names import TokenNames

CLOSE = 1e-3
MODEL = {"model": "tiny"}
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("server") / "model")
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.0}))
    server = Server(model, 3, "model.bits=schedule")
    server.wait_until(server.ready)
    yield server
    server.stop()


def logprobs_of(server, ids):
    """Log-softmax ``[T, V]`` of the library."""
    return torch.log_softmax(reference_logits(server.model, ids).double(), -1)


def test_a_chats_logprobs(server):
    answer = server.openai.chat.completions.create(
        messages=CHAT, max_tokens=8, logprobs=True, top_logprobs=4, **MODEL
    )
    choice = answer.choices[0]
    ids = chat_ids("hello")
    for one in choice.logprobs.content:
        row = logprobs_of(server, ids)[-1]
        token = int(row.argmax())  # temperature 0 is the model's own default
        assert bytes(one.bytes) == bytes_of(token)
        assert math.isclose(one.logprob, float(row[token]), abs_tol=CLOSE)
        wanted = torch.topk(row, 4).values.tolist()
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(wanted, abs=CLOSE)
        ids.append(token)
    assert len(choice.logprobs.content) == 8
    stream = server.openai.chat.completions.create(
        messages=CHAT, max_tokens=8, logprobs=True, top_logprobs=4, stream=True, **MODEL
    )
    told = [chunk.choices[0] for chunk in stream]
    pieces = [one for choice in told if choice.logprobs for one in choice.logprobs.content]
    assert pieces == choice.logprobs.content


def bytes_of(token):
    return TokenNames(byte_tokenizer()).bytes(token)


@pytest.mark.parametrize("num_tokens", [300, 40])
def test_the_request_of_lm_eval(server, num_tokens):
    """A context and a continuation, read as lm-eval reads them; the first is lent."""
    assert num_tokens < 100 or num_tokens > 24 * BLOCK_TOKENS
    ids = [(7 * n) % 256 for n in range(num_tokens)]
    ctxlen = num_tokens - 9
    body = {"prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}
    answer = server.openai.completions.create(**MODEL, **body, extra_body={"echo": True})
    told = answer.choices[0].logprobs
    rows = logprobs_of(server, ids)
    wanted = [float(rows[at - 1][ids[at]]) for at in range(ctxlen, num_tokens)]
    assert told.token_logprobs[ctxlen:-1] == pytest.approx(wanted, abs=CLOSE)
    assert math.isclose(sum(told.token_logprobs[1:-1]), _total(rows, ids), abs_tol=0.05)
    pairs = zip(told.token_logprobs, told.top_logprobs, strict=True)
    is_greedy = [own == max(top.values()) for own, top in list(pairs)[ctxlen:-1]]
    assert is_greedy == [int(rows[at - 1].argmax()) == ids[at] for at in range(ctxlen, num_tokens)]
    alone = server.openai.completions.create(
        **MODEL, **body | {"max_tokens": 0}, extra_body={"echo": True}
    )
    assert alone.choices[0].logprobs.token_logprobs == told.token_logprobs[:-1]
    assert alone.choices[0].text == text_of(ids)


def _total(rows, ids):
    return sum(float(rows[at - 1][ids[at]]) for at in range(1, len(ids)))


def test_n_gives_separate_samples_and_a_seed_gives_them_again(server):
    asked = {"prompt": "once", "max_tokens": 12, "temperature": 1.5, "seed": 7, **MODEL}
    first = server.openai.completions.create(n=4, **asked)
    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert first.usage.prompt_tokens == 4
    assert first.usage.completion_tokens == 48
    assert server.openai.completions.create(**asked).choices[0].text == texts[0], "alone as well"

    async def at_once():
        """In a batch with others, streamed and interleaved."""
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60)

        async def again():
            parts = [""] * 4
            async for chunk in await client.completions.create(n=4, stream=True, **asked):
                for choice in chunk.choices:
                    parts[choice.index] += choice.text
            return parts

        found = await asyncio.gather(again(), again())
        await client.close()
        return found

    assert asyncio.run(at_once()) == [texts, texts]


def test_a_lists_choices_are_each_prompts_own(server):
    prompts = [ids_of("one"), ids_of("another"), [5] * 30]
    asked = {"max_tokens": 5, "temperature": 0, **MODEL}
    together = server.openai.completions.create(prompt=prompts, n=2, **asked)
    for number, prompt in enumerate(prompts):
        alone = server.openai.completions.create(prompt=prompt, **asked).choices[0].text
        assert [choice.text for choice in together.choices[2 * number :][:2]] == [alone] * 2


def test_stop_tokens_bias_and_penalties_reach_the_step(server):
    asked = {"prompt": "once", "max_tokens": 12, "temperature": 0, **MODEL}
    free = server.openai.completions.create(**asked, extra_body={"return_token_ids": True})
    ids = free.choices[0].token_ids
    stop = {"stop_token_ids": [ids[3]], "return_token_ids": True}
    stopped = server.openai.completions.create(**asked, extra_body=stop).choices[0]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", ids[3])
    assert stopped.token_ids == ids[: ids.index(ids[3]) + 1]
    assert stopped.text == text_of(stopped.token_ids[:-1])
    biased = server.openai.completions.create(
        logit_bias={"65": 100}, **asked, extra_body={"return_token_ids": True}
    )
    assert set(biased.choices[0].token_ids) == {65}
    penalised = server.openai.completions.create(
        logit_bias={"65": 5, "66": 5},
        frequency_penalty=2,
        presence_penalty=2,
        **asked,
        extra_body={"return_token_ids": True},
    )
    assert len(set(penalised.choices[0].token_ids)) > 2


def test_tools_of_others_find_the_tokenizer(server):
    told = server.http.post("/tokenize", json={"prompt": "hello", "add_special_tokens": False})
    assert told.json()["tokens"] == ids_of("hello")
    assert server.http.post("/detokenize", json={"tokens": ids_of("hello")}).json() == {
        "prompt": "hello"
    }
    info = server.http.get("/tokenizer_info").json()
    assert "assistant" in info["chat_template"]
    assert info.keys() >= {"tokenizer_class", "bos_token", "eos_token", "pad_token"}
