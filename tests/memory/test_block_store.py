"""Protects the step's own blocks: nothing leaks, nothing is freed early, hashes name content."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import CapacityError
from engine.memory.blocks import ROOT, BlockStore, chain, chain_hash, root_of

TOKENS = st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2)


class BlockStoreMachine(RuleBasedStateMachine):
    """The model: a set of free blocks, reference counts, and hashes."""

    def __init__(self):
        super().__init__()
        self.store = BlockStore(block_tokens=2)
        self.free, self.references, self.hashes = set(), {}, {}
        self.cached, self.next_block = set(), 0
        """``cached``: those in use that the pool keeps"""

    def used(self, data):
        return data.draw(st.sampled_from(sorted(self.references)))

    @rule(num_blocks=st.integers(0, 4))
    def add(self, num_blocks):
        new = range(self.next_block, self.next_block + num_blocks)
        self.next_block += num_blocks
        self.store.add(new)
        self.free.update(new)

    @rule(tokens=st.lists(TOKENS, max_size=3))
    def recover(self, tokens):
        """The pool found these; it may have them under a hash that is in use here as well."""
        blocks = range(self.next_block, self.next_block + len(tokens))
        self.next_block += len(tokens)
        found = {b: chain_hash(ROOT, of) for b, of in zip(blocks, tokens, strict=True)}
        self.store.recover(found)
        self.hashes |= found
        self.references.update(dict.fromkeys(blocks, 1))
        self.cached.update(blocks)

    @rule(keep=st.integers(0, 3))
    def surplus(self, keep):
        extra = self.store.surplus(keep)
        assert len(extra) == max(0, len(self.free) - keep)
        assert set(extra) <= self.free
        self.free -= set(extra)

    @rule(num_blocks=st.integers(0, 5))
    def allocate(self, num_blocks):
        if num_blocks > len(self.free):
            with pytest.raises(CapacityError, match=f"{len(self.free)} free of"):
                self.store.allocate(num_blocks)
            return
        taken = self.store.allocate(num_blocks)
        assert len(set(taken)) == num_blocks
        assert set(taken) <= self.free
        self.free -= set(taken)
        self.references.update(dict.fromkeys(taken, 1))

    @precondition(lambda self: self.references)
    @rule(data=st.data())
    def share(self, data):
        block = self.used(data)
        self.store.share([block])
        self.references[block] += 1

    @precondition(lambda self: self.references)
    @rule(data=st.data(), times=st.integers(1, 3), keep=st.booleans())
    def release(self, data, times, keep):
        block = self.used(data)
        if times > self.references[block]:
            with pytest.raises(ValueError, match="more often"):
                self.store.release([block] * times)
            return
        left = self.store.release([block] * times, keep=keep)
        self.references[block] -= times
        if self.references[block]:
            assert not left
            return
        del self.references[block]
        content = self.hashes.pop(block, None)
        if block in self.cached or (keep and content):
            assert left == {block: content}, "the pool has it, and it must not be written"
            self.cached.discard(block)
        else:
            assert not left
            self.free.add(block)

    @precondition(lambda self: self.references)
    @rule(data=st.data(), tokens=TOKENS)
    def seal(self, data, tokens):
        block = self.used(data)
        if block in self.hashes:
            with pytest.raises(ValueError, match="sealed already"):
                self.store.seal(block, ROOT, tokens)
            return
        self.hashes[block] = self.store.seal(block, ROOT, tokens)
        assert self.hashes[block] == chain_hash(ROOT, tokens)

    @invariant()
    def agrees(self):
        self.store.check()
        assert self.store.num_free == len(self.free)
        assert self.store.num_used == len(self.references)
        for block in range(self.next_block):
            assert self.store.hash_of(block) == self.hashes.get(block)
        for content in {chain_hash(ROOT, [0, 0]), *self.hashes.values()}:
            found = self.store.find(content)
            assert found is None or self.hashes[found] == content


TestBlockStore = BlockStoreMachine.TestCase


def test_failed_allocation_takes_nothing_and_says_how_many_there_are():
    store = BlockStore(block_tokens=2)
    store.add(range(8))
    store.allocate(5)
    with pytest.raises(CapacityError, match="5 blocks wanted, 3 free of 8; wait"):
        store.allocate(5)
    assert store.num_free == 3


def test_a_shared_block_lives_until_its_last_reference():
    store = BlockStore(block_tokens=2)
    store.add([4])
    store.allocate(1)
    store.share([4])
    store.release([4])
    assert store.num_used == 1
    store.release([4])
    assert store.num_free == 1


def test_blocks_that_are_not_used_or_not_full_are_refused():
    store = BlockStore(block_tokens=2)
    store.add([0, 1])
    with pytest.raises(ValueError, match="handed over twice"):
        store.add([1])
    with pytest.raises(ValueError, match="block 0 is not in use"):
        store.share([0])
    [block] = store.allocate(1)
    with pytest.raises(ValueError, match="1 tokens do not fill 2"):
        store.seal(block, ROOT, [7])


@given(first=TOKENS, second=TOKENS, other=TOKENS)
def test_a_chain_hash_names_all_tokens_before_it(first, second, other):
    chain = chain_hash(chain_hash(ROOT, first), second)
    assert chain == chain_hash(chain_hash(ROOT, list(first)), tuple(second))
    assert (chain == chain_hash(chain_hash(ROOT, other), second)) == (first == other)
    assert (chain == chain_hash(chain_hash(ROOT, first), other)) == (second == other)
    assert chain != chain_hash(chain_hash(ROOT, first), second, salt=b"tenant")


@given(tokens=st.lists(st.integers(0, 9), min_size=4, max_size=4), salt=st.text(max_size=4))
def test_a_salt_is_in_every_hash_of_a_chain(tokens, salt):
    hashes = chain(root_of(salt), tokens, 2, 2)
    assert hashes[1] == chain_hash(chain_hash(root_of(salt), tokens[:2]), tokens[2:])
    assert (hashes == chain(ROOT, tokens, 2, 2)) == (not salt)
    assert not {*hashes} & {*chain(root_of(salt + "x"), tokens, 2, 2)}


def test_no_text_is_a_salt_that_goes_on_behind_somebodys_block():
    """What chain_hash hashes for a block of the letters A, as text: its hash must be no root."""
    letters = [0x41414141] * 2
    parts = (b"", b"", struct.pack("<2I", *letters))
    text = b"".join(struct.pack("<Q", len(part)) + part for part in parts).decode()
    assert root_of(text) != chain_hash(ROOT, letters)
