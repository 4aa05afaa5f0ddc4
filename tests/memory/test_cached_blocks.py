"""Protects cached blocks that a pool's own step uses again while others may read them too."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rmanager_harness import Talk, hello

from engine import protocol as p
from engine.errors import Fenced
from engine.memory.books import BlockState
from engine.memory.sketch import MAX_BYTES, Sketcher, may_have, sketch

CONTENT = [bytes([number]) * 16 for number in range(8)]


@pytest.fixture
def talk():
    """A pool of 4 blocks whose step has left contents 0, 1 and 2 in blocks of its own."""
    talk = Talk(4)
    talk.step()
    drawn = talk.ask(0, p.Draw(4))
    talk.say(0, p.Give(drawn.blocks[:3], CONTENT[:3]))
    talk.say(0, p.Give(drawn.blocks[3:]))
    return talk


def recover(talk, *numbers, num_blocks=0, **more):
    return talk.ask(0, p.Draw(num_blocks, contents=[CONTENT[n] for n in numbers], **more))


def test_what_is_cached_comes_first_and_counts(talk):
    drawn = recover(talk, 5, 1, 0, num_blocks=4)
    assert drawn.found == [1, 2]
    assert [talk.rmanager.books.find(CONTENT[n]) for n in (1, 0)] == drawn.cached
    assert len(drawn.blocks) == 2, "one was free, and content 2 went"
    assert drawn.num_free == 0
    assert talk.rmanager.books.find(CONTENT[2]) is None
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).num_used == 4


def test_nothing_is_handed_over_twice(talk):
    drawn = recover(talk, 0, 0, 1)
    assert drawn.found == [0, 2]
    assert recover(talk, 0, 1).cached == []
    talk.say(0, p.Give(drawn.cached, CONTENT[:2]))
    assert recover(talk, 1).found == [0]


def test_what_the_step_uses_is_lent_to_nobody_and_may_be_read_by_all(talk):
    drawn = recover(talk, 0, 1, 2)
    talk.ask(1, hello(1))
    assert talk.ask(1, p.Reserve(1, 2, 5.0)) == p.Refused(1, 1)
    pinned = talk.ask(1, p.Pin(2, CONTENT[:2], 5.0))
    assert pinned.blocks == drawn.cached[:2]
    talk.say(0, p.Give(drawn.cached, CONTENT[:3]))
    assert talk.ask(0, p.Draw(4)).num_free == 0
    assert talk.rmanager.books.count(BlockState.USED) == 2, "two are pinned"
    talk.say(1, p.Attach(1, 1, [(0, pinned.loan, 0), (1, pinned.loan, 1)]))
    assert talk.rmanager.resolve(1, 1, 1, talk.now) == [
        (0, pinned.blocks[0]),
        (1, pinned.blocks[1]),
    ]


def test_a_reader_that_is_late_is_fenced_when_the_block_is_used_for_something_else(talk):
    talk.ask(1, hello(1))
    pinned = talk.ask(1, p.Pin(2, CONTENT[:1], 1.0))
    talk.say(1, p.Attach(1, 1, [(0, pinned.loan, 0)]))
    talk.now += 2
    assert len(talk.ask(0, p.Draw(4)).blocks) == 4
    with pytest.raises(Fenced):
        talk.rmanager.resolve(1, 1, 1, talk.now)
    assert talk.pool.generation(pinned.blocks[0]) > pinned.generations[0]


def test_a_step_that_dies_leaves_it_cached(talk):
    recover(talk, 0, 1, num_blocks=3)
    talk.rmanager.peer_lost(0, talk.now)
    talk.rmanager.check()
    assert talk.rmanager.books.num_available == 4
    talk.step(peer=1)
    assert talk.ask(1, p.Draw(0, contents=CONTENT[:2])).found == [0, 1]


def test_calling_back_a_pin_of_what_the_step_uses_is_not_counted_on():
    """It brings no memory: the block is the step's own already."""
    talk = Talk(2, min_residence_s=0)
    talk.step()
    talk.say(0, p.Give(talk.ask(0, p.Draw(2)).blocks, CONTENT[:2]))
    talk.ask(1, hello(1))
    talk.ask(1, p.Pin(1, CONTENT[:2], 5.0))
    recover(talk, 0)
    drawn = talk.ask(0, p.Draw(2, recall=True))
    assert (drawn.blocks, drawn.num_recalled) == ([], 1)


def test_what_the_step_misses_still_is_called_back_behind_what_was_found(talk):
    talk.ask(1, hello(1))
    talk.loan(1, 2)
    talk.now += 1
    drawn = recover(talk, 0, 1, 2, num_blocks=4, recall=True)
    assert len(drawn.cached) + len(drawn.blocks) == 2
    assert drawn.num_recalled == 2


@given(seed=st.integers(0, 999), num_contents=st.integers(0, 3000))
def test_a_sketch_forgets_nothing_and_hardly_makes_anything_up(seed, num_contents):
    contents = [_hash(seed, number) for number in range(4000)]
    there, others = contents[:num_contents], contents[num_contents:]
    made = sketch(there)
    assert len(made) <= MAX_BYTES + 1
    assert all(may_have(made, content) is not False for content in there)
    if num_contents <= MAX_BYTES:
        assert all(may_have(made, content) for content in there)
    known = sum(may_have(made, content) is not None for content in contents)
    assert known >= len(contents) / 5
    assert sum(may_have(made, content) is True for content in others) <= 0.06 * len(others) + 3


def _hash(seed, number):
    return hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=16).digest()


def test_a_sketch_is_made_anew_when_something_changed_and_not_all_the_time(talk):
    books = talk.rmanager.books
    sketcher = Sketcher(books)
    first = sketcher.at(0.0)
    assert may_have(first, CONTENT[2])
    talk.ask(0, p.Draw(4))
    assert sketcher.at(0.0001) is first
    assert sketcher.at(1.0) == b""
