"""What a Submit carries to a step, and that garbage in it is a lost peer, never a crash."""

import msgspec
import pytest

from engine.core import Request, SamplingParams
from engine.errors import PeerLost
from engine.protocol import TO_STEP, Submit, encode

REQUEST = Request(
    request_id="a",
    prompt_ids=(1, 2),
    answer_ids=(3,),
    sampling=SamplingParams(max_tokens=5, temperature=0.5, top_k=7, seed=1 << 48),
    age_s=2.0,
    stays=True,
    max_borrowed=0,
)


def test_the_whole_request_travels():
    assert TO_STEP(encode(Submit(REQUEST))) == Submit(REQUEST)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("request", "prompt_ids", [-1]),
        ("request", "prompt_ids", [1 << 31]),
        ("request", "answer_ids", ["x"]),
        ("request", "age_s", -1.0),
        ("request", "max_borrowed", -1),
        ("sampling", "max_tokens", -1),
        ("sampling", "seed", 1 << 49),
        ("sampling", "temperature", None),
    ],
)
def test_garbage_is_a_lost_peer(where, key, value):
    tag, request = msgspec.msgpack.decode(encode(Submit(REQUEST)))
    (request if where == "request" else request["sampling"])[key] = value
    with pytest.raises(PeerLost, match=key):
        TO_STEP(msgspec.msgpack.encode([tag, request]))
