"""The tp ranks of a debtor's step: all read what rank 0 has borrowed, only rank 0 does business."""

import pytest
from rmanager_harness import OWN, OWN_EPOCH, Talk, hello

from engine import protocol as p
from engine.attention.asked import Asked
from engine.core import ModelShape
from engine.errors import PeerLost
from engine.memory.effects import Reply
from engine.memory.loans import LoanFenced

RANK_1, RANK_0 = 1, 2
"""channels; rank 1 came first"""


@pytest.fixture
def talk() -> Talk:
    made = Talk(min_residence_s=0.0)
    made.ask(RANK_1, hello(1, rank=1))
    made.ask(RANK_0, hello(1))
    return made


def test_a_rank_reads_what_its_instance_has_borrowed(talk: Talk) -> None:
    granted = talk.loan(RANK_0)
    leaves = [(3, granted.loan, 0), (4, granted.loan, 1)]
    assert talk.say(RANK_1, p.Attach(5, 1, leaves)) == []
    found = talk.rmanager.resolve(RANK_1, 5, 1, talk.now)
    assert found == list(zip((3, 4), granted.blocks, strict=True))
    with pytest.raises(LoanFenced):  # tables are of a channel, not of the instance
        talk.rmanager.resolve(RANK_0, 5, 1, talk.now)
    talk.ask(RANK_0, p.Release(granted.loan))
    with pytest.raises(LoanFenced):
        talk.rmanager.resolve(RANK_1, 5, 1, talk.now)


@pytest.mark.parametrize(
    "message",
    [
        p.Reserve(9, 1, 1.0),
        p.Renew([1]),
        p.Release(1),
        p.Write(1, 0, 0, False),
        p.Read(1, 0, 0, 1),
        p.Pin(9, [b"x"], 1.0),
        p.Draw(1),
    ],
)
def test_a_rank_does_no_business(talk: Talk, message: p.Message) -> None:
    talk.loan(RANK_0)
    reason = talk.lost(RANK_1, message)
    assert reason == f"{type(message).__name__} from tp rank 1"


def test_what_is_called_back_is_told_to_rank_0(talk: Talk) -> None:
    talk.loan(RANK_0, num_blocks=8)
    talk.step(3)
    said = talk.say(3, p.Draw(2, recall=True))
    recalls = [one.peer for one in said if isinstance(one, Reply) and one.peer != 3]
    assert recalls == [RANK_0]
    talk.rmanager.peer_lost(RANK_0, talk.now)
    talk.now += 60.0
    assert not [one for one in talk.rmanager.tick(talk.now) if isinstance(one, Reply)]


def test_a_rank_of_a_newer_epoch_ends_older_loans_and_ranks(talk: Talk) -> None:
    talk.loan(RANK_0)
    said = talk.say(4, hello(1, epoch=2, rank=2))
    assert {one.peer for one in said if hasattr(one, "reason")} == {RANK_0, RANK_1}
    assert not list(talk.rmanager._lending.loans)


def test_the_own_steps_ranks_have_the_memory_at_hand(talk: Talk) -> None:
    assert "tp rank 1 has its own pool's" in talk.lost(5, hello(OWN, OWN_EPOCH, rank=1))
    talk.step(6)


@pytest.mark.parametrize(
    ("heads", "wrong"),
    [
        (p.AskedHeads(2, 2, 2), "KV heads 2 to 4 of 3"),
        (p.AskedHeads(2, 0, 0), "KV heads 0 to 0 of 3"),
        (p.AskedHeads(0, 0, 1), "0 query heads over 1 KV heads"),
        (p.AskedHeads(3, 0, 2), "3 query heads over 2 KV heads"),
        (p.AskedHeads(6, 0, 2), "6 query heads over 2 KV heads, 2 read each"),
    ],
)
def test_heads_that_cannot_be_lose_the_peer(talk: Talk, heads: p.AskedHeads, wrong: str) -> None:
    shape = ModelShape(
        num_layers=1, num_heads=6, num_kv_heads=3, head_dim=4, vocab_size=1, max_positions=8
    )
    asked = Asked(RANK_1, rmanager=talk.rmanager, pool=talk.pool, shape=shape)  # type: ignore[arg-type]
    with pytest.raises(PeerLost, match=wrong):
        asked.begin(p.Begin(1, 1.0, [], heads))
    asked.begin(p.Begin(2, 1.0, [], p.AskedHeads(1, 2, 1)))
    assert asked.num_heads == 1
    asked.begin(p.Begin(3, 1.0, []))
    assert asked.num_heads == 6
