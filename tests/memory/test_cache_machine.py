"""Protects cached contents under any order of gives, finds, pins, loans, deaths and time.

Each block carries a note of the content that was last written to it, as bytes would. A content is
cached in one block at most, whoever was promised it reads it, and all else is there to be taken.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rmanager_harness import BLOCK_BYTES, Talk, hello

from engine import protocol as p
from engine.memory.books import BlockState

CONTENTS = [bytes([number]) * 16 for number in range(6)]
SOME = st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=4)
STEP = 0


class CacheMachine(RuleBasedStateMachine):
    @initialize(num_blocks=st.integers(2, 7))
    def start(self, num_blocks):
        self.talk = Talk(num_blocks, min_residence_s=0.0)
        self.books = self.talk.rmanager.books
        self.notes = self.talk.pool.notes
        self.step, self.next_peer, self.reservation = None, 1, 0
        self.drawn, self.held = set(), {}
        """the step's own blocks, and those it uses from the cache, with their content"""
        self.pins, self.loans = {}, {}
        """(peer, loan) -> content by slot, and -> blocks by slot"""
        self.debtor = self.next_peer
        self.next_peer += 1
        self.talk.ask(self.debtor, hello(1))

    def tell(self, message, num_bytes=0):
        return self.talk.ask(self.debtor, message, num_bytes)

    # --- the own step ---------------------------------------------------------------------------

    @rule(num_blocks=st.integers(0, 4), contents=st.one_of(st.just([]), SOME), recall=st.booleans())
    def draw(self, num_blocks, contents, recall):
        if self.step is None:
            self.step = self.next_peer
            self.next_peer += 1
            self.talk.step(self.step)
        available = self.books.num_available
        wanted = p.Draw(num_blocks, contents=contents, recall=recall)
        drawn = self.talk.ask(self.step, wanted)
        for index, block in zip(drawn.found, drawn.cached, strict=True):
            assert block not in self.held
            assert self.notes[block] == contents[index], "it holds something else"
            self.held[block] = contents[index]
        missing = max(0, num_blocks - len(drawn.cached))
        assert len(drawn.blocks) >= min(missing, available - len(drawn.cached))
        assert not self.drawn & {*drawn.blocks}
        assert not self.held.keys() & {*drawn.blocks}
        self.drawn |= {*drawn.blocks}
        for block in drawn.blocks:
            self.notes[block] = "own"

    @precondition(lambda self: self.drawn)
    @rule(data=st.data(), content=st.sampled_from([b"", *CONTENTS]))
    def give(self, data, content):
        block = data.draw(st.sampled_from(sorted(self.drawn)))
        self.drawn.discard(block)
        self.notes[block] = content
        self.talk.say(self.step, p.Give([block], [content]))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), named=st.booleans())
    def give_back(self, data, named):
        block = data.draw(st.sampled_from(sorted(self.held)))
        content = self.held.pop(block)
        self.talk.say(self.step, p.Give([block], [content] if named else []))
        assert self.books.find(content) == block, "it stays cached"

    @precondition(lambda self: self.step)
    @rule()
    def step_dies(self):
        self.talk.rmanager.peer_lost(self.step, self.talk.now)
        self.step, self.drawn, self.held = None, set(), {}

    # --- a debtor -------------------------------------------------------------------------------

    @rule(contents=SOME, lease_s=st.sampled_from([1.0, 30.0]))
    def pin(self, contents, lease_s):
        self.reservation += 1
        pinned = self.tell(p.Pin(self.reservation, contents, lease_s))
        if pinned.loan:
            self.pins[pinned.loan] = [contents[index] for index in pinned.found]
            for content, block in zip(self.pins[pinned.loan], pinned.blocks, strict=True):
                assert self.notes[block] == content

    @rule(num_blocks=st.integers(1, 3), contents=SOME, keep=st.booleans())
    def lend_and_return(self, num_blocks, contents, keep):
        """The debtor writes some of what it borrowed, and gives it back."""
        self.reservation += 1
        granted = self.tell(p.Reserve(self.reservation, num_blocks, 30.0))
        if isinstance(granted, p.Refused):
            return
        for slot, content in enumerate(contents[:num_blocks]):
            self.notes[granted.blocks[slot]] = content
            self.tell(p.Write(granted.loan, slot, 0, True, content), BLOCK_BYTES)
        self.tell(p.Release(granted.loan, keep=keep))

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), keep=st.booleans())
    def unpin(self, data, keep):
        loan = data.draw(st.sampled_from(sorted(self.pins)))
        del self.pins[loan]
        self.tell(p.Release(loan, keep=keep))

    @rule(seconds=st.sampled_from([0.5, 3.0, 40.0]))
    def advance(self, seconds):
        """Leases run out, and what was called back in vain is taken."""
        self.talk.now += seconds
        self.talk.rmanager.tick(self.talk.now)

    # --- promises -------------------------------------------------------------------------------

    @invariant()
    def a_pin_is_read_as_what_it_is(self):
        loans = self.talk.rmanager._lending.loans
        for number, contents in self.pins.items():
            loan = loans.get(number)
            for slot in loan.standing_slots if loan else ():
                block = loan.blocks[slot]
                assert self.notes[block] == contents[slot]
                assert self.talk.pool.generation(block) == loan.generations[slot]

    @invariant()
    def the_cache_is_what_it_says(self):
        cached = self.books.blocks(BlockState.CACHED)
        contents = [self.notes[block] for block in cached]
        assert len(set(contents)) == len(contents), "a content is cached twice"
        assert all(self.books.find(self.notes[block]) == block for block in cached)
        assert sorted(self.books.contents) == sorted(contents)
        assert all(self.notes[block] == content for block, content in self.held.items())

    @invariant()
    def all_that_nobody_needs_is_there_to_be_taken(self):
        self.talk.rmanager.check()
        loans = self.talk.rmanager._lending.loans
        read = {loan.blocks[slot] for loan in loans for slot in loan.standing_slots}
        assert {*self.books.blocks(BlockState.USED)} == self.drawn
        needed = self.drawn | self.held.keys() | read
        assert self.books.num_available == self.books.num_blocks - len(needed)


TestCache = CacheMachine.TestCase
