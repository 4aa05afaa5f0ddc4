"""Protects prefix caching between true processes: computed once, used on any instance, same tokens.

All requests share a prefix of 4,000 tokens; ``model.bits=schedule`` makes answers equal to the bit,
so their tokens must be the same wherever and in whatever chunks the keys were computed.
"""

import random
import time

import pytest
from served import GUARD_S, Server, make_tiny_checkpoint

BLOCK_TOKENS, PREFIX = 16, 4000


@pytest.fixture(scope="module", params=["shm", "tcp"])
def server(request, tmp_path_factory):
    """With shm the memory of others is mapped, with tcp it is asked for or copied."""
    model = make_tiny_checkpoint(tmp_path_factory.mktemp("model"), max_positions=8192)
    server = Server(
        model,
        2,
        f"transport.name={request.param}",
        "model.bits=schedule",
        "pool.num_blocks=1200",
        f"pool.block_tokens={BLOCK_TOKENS}",
        "scheduler.max_step_tokens=512",
        "scheduler.lease_s=30",
    )
    server.wait_until(server.ready)
    yield server
    server.stop()


def prompt_of(seed, num_tokens=PREFIX):
    chance = random.Random(seed)
    return [chance.randrange(1, 256) for _ in range(num_tokens)]


def ask(server, instance, prompt, **more):
    """(the answer's tokens, how many of the prompt's were not computed again)."""
    extra = {"ignore_eos": True, "return_token_ids": True, **more}
    answer = server.client(instance).completions.create(
        model="tiny", prompt=prompt, max_tokens=8, temperature=0, extra_body=extra
    )
    return answer.choices[0].token_ids, answer.usage.prompt_tokens_details.cached_tokens


def test_the_same_prefix_is_computed_once_at_one_instance(server):
    prefix = prompt_of(1)
    tokens, cached = ask(server, 0, prefix + [7] * 9)
    assert cached == 0
    again, cached = ask(server, 0, prefix + [7] * 9)
    assert (again, cached) == (tokens, PREFIX)
    uncached, cached = ask(server, 0, prefix + [7] * 9, cache_salt="nobody else's")
    assert (uncached, cached) == (tokens, 0)
    _, cached = ask(server, 0, prefix)
    assert cached == PREFIX - BLOCK_TOKENS, "the last token's row is computed in any case"
    other, cached = ask(server, 0, prefix + [9] * 30)
    assert cached == PREFIX
    assert other == ask(server, 1, prefix + [9] * 30, cache_salt="to compute it")[0]


def test_another_instance_uses_it_where_it_lies_or_copies_it(server):
    """Steps hear a moment later what others have cached: a prefix that is too new is tried anew."""
    deadline, seed = time.monotonic() + GUARD_S, 100
    while True:
        seed += 1
        prompt = prompt_of(seed) + [5] * 5
        tokens, cached = ask(server, 0, prompt)
        assert cached == 0
        time.sleep(1.5)
        again, cached = ask(server, 1, prompt)
        assert again == tokens
        if cached or time.monotonic() > deadline:
            break
    assert cached == PREFIX
    salted, cached = ask(server, 1, prompt, cache_salt="a")
    assert (salted, cached) == (tokens, 0)
    assert ask(server, 1, prompt, cache_salt="b")[1] == 0, "nor with another salt"
    assert ask(server, 1, prompt, cache_salt="a") == (tokens, PREFIX)


def test_a_stream_tells_it_with_its_usage(server):
    prompt = prompt_of(3, 100)
    ask(server, 0, prompt)
    stream = server.client(0).completions.create(
        model="tiny",
        prompt=prompt,
        max_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    *_, last = stream
    assert last.usage.prompt_tokens_details.cached_tokens == 96


@pytest.mark.parametrize("salt", ["", 7, ["a"], "x" * 2000])
def test_a_salt_is_a_short_text(server, salt):
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1, "cache_salt": salt}
    refused = server.http.post("/v1/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "cache_salt"
