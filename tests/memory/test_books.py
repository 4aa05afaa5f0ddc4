"""Protects conservation: each block of a pool is in exactly one state, and the sums match."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import CapacityError
from engine.memory.books import HELD, BlockState, Books

FREE, CACHED, LENT = BlockState.FREE, BlockState.CACHED, BlockState.LENT


class BooksMachine(RuleBasedStateMachine):
    """The model: a dict of states, and a dict of pins."""

    @initialize(num_blocks=st.integers(0, 6), num_last=st.integers(0, 3))
    def start(self, num_blocks, num_last):
        self.first_last = max(0, num_blocks - num_last)
        self.books = Books(num_blocks, num_last=num_blocks - self.first_last)
        self.states = dict.fromkeys(range(num_blocks), FREE)
        self.content = {}
        self.pins = {}

    def among(self, data, *states):
        return data.draw(st.sampled_from([b for b, s in self.states.items() if s in states]))

    @property
    def idle(self):
        return [b for b in self.content if not self.pins.get(b)]

    @rule(num_blocks=st.integers(0, 7), state=st.sampled_from(HELD))
    def take(self, num_blocks, state):
        free = {b for b, s in self.states.items() if s is FREE}
        idle = set(self.idle)
        if num_blocks > len(free) + len(self.idle):
            with pytest.raises(CapacityError):
                self.books.take(num_blocks, state)
            return
        taken = self.books.take(num_blocks, state)
        assert len(set(taken)) == num_blocks
        first = {b for b in free | idle if b < self.first_last}
        assert len(first & set(taken)) == min(num_blocks, len(first))
        for part in (first, (free | idle) - first):  # what is cached is kept while any is free
            if part & set(taken) & idle:
                assert part & free <= set(taken)
        assert set(taken) <= free | idle
        for block in taken:
            self.states[block] = state
            self.content.pop(block, None)

    @precondition(lambda self: any(s in HELD for s in self.states.values()))
    @rule(data=st.data())
    def free(self, data):
        block = self.among(data, *HELD)
        self.books.free([block])
        self.states[block] = FREE

    @precondition(lambda self: any(s is not FREE for s in self.states.values()))
    @rule(data=st.data())
    def free_nothing_when_one_is_wrong(self, data):
        good = self.among(data, *(set(BlockState) - {FREE}))
        bad = data.draw(st.sampled_from([good, -1, len(self.states)]))
        with pytest.raises(ValueError, match="block"):
            self.books.free([good, bad])

    @precondition(lambda self: {BlockState.USED, LENT} & set(self.states.values()))
    @rule(data=st.data(), content=st.sampled_from([b"a", b"b", b"c"]))
    def cache(self, data, content):
        block = self.among(data, BlockState.USED, LENT)
        kept = self.books.cache(block, content)
        assert kept == (content not in self.content.values())
        self.states[block] = CACHED if kept else FREE
        if kept:
            self.content[block] = content

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def pin(self, data):
        block = self.among(data, CACHED)
        self.books.pin(block)
        self.pins[block] = self.pins.get(block, 0) + 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data):
        block = data.draw(st.sampled_from([b for b, pins in self.pins.items() if pins]))
        self.books.unpin(block)
        self.pins[block] -= 1

    @invariant()
    def agrees(self):
        self.books.check()
        assert {b: self.books.state(b) for b in self.states} == self.states
        for state in BlockState:
            assert self.books.count(state) == list(self.states.values()).count(state)
        assert self.books.num_available == self.books.count(FREE) + len(self.idle)
        assert {self.books.find(content): content for content in self.content.values()} == (
            self.content
        )


TestBooks = BooksMachine.TestCase


def test_the_longest_idle_cached_block_is_reclaimed_first():
    books = Books(3)
    first, second, third = books.take(3, BlockState.USED)
    for block, content in ((first, b"1"), (second, b"2"), (third, b"3")):
        books.cache(block, content)
    books.pin(first)
    books.unpin(first)
    assert books.take(2, LENT) == [third, second]
    assert books.find(b"1") == first


@pytest.mark.parametrize("method", ["pin", "unpin"])
def test_pins_are_for_cached_blocks(method):
    books = Books(1)
    with pytest.raises(ValueError, match="block 0 is"):
        getattr(books, method)(0)


def test_only_held_states_are_taken_and_only_used_or_lent_blocks_cached():
    books = Books(2)
    with pytest.raises(ValueError, match="CACHED"):
        books.take(1, CACHED)
    with pytest.raises(ValueError, match="FREE"):
        books.cache(0, b"x")
    with pytest.raises(CapacityError, match="3 blocks wanted, 2 free of 2"):
        books.take(3, LENT)
