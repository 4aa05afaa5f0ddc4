"""Protects promises 1, 2, 3 and 5 of the RManager under any order of messages, deaths and time.

The model is plain dicts. A debtor's clock runs up to 4 % slow, its Renews may arrive late, twice
and out of order. Each block carries a note of whose keys it holds, as bytes would.
"""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from rmanager_harness import BLOCK_BYTES, OWN, OWN_EPOCH, hello
from rmanager_model import ModelLoan, RManagerModel

from engine import protocol as p
from engine.errors import Fenced
from engine.memory.books import BlockState
from engine.memory.effects import CopyIn, CopyOut

LEASES = st.sampled_from([1.0, 4.0, 30.0])


class RManagerMachine(RManagerModel):
    # --- peers ----------------------------------------------------------------------------------

    @rule(instance=st.sampled_from([1, 2]), newer=st.sampled_from([False] * 5 + [True]))
    def connect(self, instance, newer):
        self.epochs[instance] += newer
        debtor = (instance, self.epochs[instance])
        self.say(self.next_peer, hello(*debtor))
        for peer, other in list(self.peers.items()):
            if other[0] == instance and other != debtor:
                self.lose(peer)
        for loan in self.loans.values():
            loan.ended |= loan.debtor[0] == instance and loan.debtor != debtor
        self.peers[self.next_peer] = debtor
        self.met.add(instance)
        self.next_peer += 1

    @precondition(lambda self: self.met)
    @rule(data=st.data())
    def an_old_incarnation_stays_out(self, data):
        instance = data.draw(st.sampled_from(sorted(self.met)))
        self.settle()
        reason = self.talk.lost(self.next_peer, hello(instance, self.epochs[instance] - 1))
        assert "now it is" in reason
        self.rmanager.peer_lost(self.next_peer, self.talk.now)
        self.next_peer += 1

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def disconnect(self, data):
        self.lose(data.draw(st.sampled_from(sorted(self.peers))))

    # --- the own step ---------------------------------------------------------------------------

    @rule(num_blocks=st.integers(0, 9), staging=st.booleans())
    def draw(self, num_blocks, staging):
        if self.step is None:
            self.step = self.next_peer
            self.next_peer += 1
            self.say(self.step, hello(OWN, OWN_EPOCH))
        drawn = self.say(self.step, p.Draw(num_blocks, staging))
        free = self.talk.pool.num_blocks - len(self.drawn) - self.num_lent()
        assert len(drawn.blocks) == min(num_blocks, free)
        for block in drawn.blocks:
            assert block not in self.drawn
            self.talk.pool.notes[block] = "own"
            self.drawn[block] = BlockState.STAGING if staging else BlockState.USED

    @precondition(lambda self: self.drawn)
    @rule(data=st.data())
    def give(self, data):
        block = data.draw(st.sampled_from(sorted(self.drawn)))
        self.settle()
        assert self.talk.say(self.step, p.Give([block])) == []
        del self.drawn[block]

    @precondition(lambda self: self.step)
    @rule()
    def step_dies(self):
        self.settle()
        self.rmanager.peer_lost(self.step, self.talk.now)
        self.step, self.drawn = None, {}

    @precondition(lambda self: self.step)
    @rule()
    def one_hop(self):
        """Promise 3: the own step gets no loan, so what it has cannot be lent on as borrowed."""
        self.settle()
        assert "does not reserve" in self.talk.lost(self.step, p.Reserve(1, 1, 1.0))
        self.step_dies()

    # --- loans ----------------------------------------------------------------------------------

    @precondition(lambda self: self.peers)
    @rule(data=st.data(), num_blocks=st.integers(1, 4), lease_s=LEASES)
    def reserve(self, data, num_blocks, lease_s):
        peer = data.draw(st.sampled_from(sorted(self.peers)))
        answer = self.say(peer, p.Reserve(self.next_reservation, num_blocks, lease_s))
        free = self.talk.pool.num_blocks - len(self.drawn) - self.num_lent()
        keep = self.rmanager._lending.config.keep_blocks
        cap = min(self.cap, self.talk.pool.num_blocks - keep)
        lendable = max(0, min(cap - self.num_lent(), free - keep))
        if num_blocks > lendable:
            assert answer == p.Refused(self.next_reservation, lendable)
        else:
            assert len(answer.blocks) == num_blocks
            assert answer.loan not in self.loans, "a loan number was used again"
            loan = ModelLoan(
                self.peers[peer], self.next_reservation, answer, ["open"] * num_blocks, 0.0, 0.0
            )
            self.extend(loan, self.talk.now)
            self.loans[answer.loan] = loan
        self.next_reservation += 1

    @precondition(RManagerModel.has_loan)
    @rule(data=st.data())
    def reserve_again(self, data):
        peer, _, loan = self.peer_and_loan(data)
        self.tick()
        if loan.ended or "released" in loan.slots:
            return
        granted = loan.granted
        again = p.Reserve(loan.reservation, len(granted.blocks), granted.lease_s)
        assert self.say(peer, again) == granted
        self.extend(loan, self.talk.now)

    @precondition(RManagerModel.has_loan)
    @rule(data=st.data())
    def send_renew(self, data):
        _, number, loan = self.peer_and_loan(data)
        self.renews.append((loan.debtor, number, self.talk.now))

    @precondition(lambda self: self.renews and self.peers)
    @rule(data=st.data())
    def deliver_renew(self, data):
        """Late, twice, out of order. Promise 5: what has ended stays so."""
        debtor, number, sent = data.draw(st.sampled_from(self.renews))
        peer = next((peer for peer, of in self.peers.items() if of == debtor), None)
        if peer is None:
            return
        renewed = self.say(peer, p.Renew([number])).loans
        loan = self.loans[number]
        assert renewed == ([] if loan.ended else [number])
        if renewed:
            self.extend(loan, sent)

    @precondition(RManagerModel.has_loan)
    @rule(data=st.data())
    def release(self, data):
        peer, number, loan = self.peer_and_loan(data)
        slots = data.draw(st.lists(st.sampled_from(range(len(loan.slots)))))
        released = self.say(peer, p.Release(number, slots))
        wanted = dict.fromkeys(slots or range(len(loan.slots)))
        assert released == p.Released(number, self.end_slots(loan, wanted))

    # --- keys -----------------------------------------------------------------------------------

    @precondition(RManagerModel.has_loan)
    @rule(data=st.data())
    def write(self, data):
        peer, number, loan = self.peer_and_loan(data)
        slot = data.draw(st.sampled_from(range(len(loan.slots))))
        self.settle()
        if not loan.ended and loan.slots[slot] == "committed":
            assert loan.slots[slot] in self.talk.lost(
                peer, p.Write(number, slot, 0, True), BLOCK_BYTES
            )
            return self.lose(peer)
        return self.write_slot(peer, number, slot)

    def write_slot(self, peer, number, slot):
        loan = self.loans[number]
        outputs = self.talk.say(peer, p.Write(number, slot, 0, True), BLOCK_BYTES)
        if loan.ended or loan.slots[slot] == "released":
            assert not any(isinstance(out, CopyIn) for out in outputs)
            return
        assert outputs[0] == CopyIn(loan.granted.blocks[slot], 0)
        self.talk.carry_out(outputs, (number, slot))
        loan.slots[slot] = "committed"

    @precondition(RManagerModel.has_loan)
    @rule(data=st.data(), sequence=st.integers(0, 1), version=st.integers(1, 2))
    def attach(self, data, sequence, version):
        peer, number, loan = self.peer_and_loan(data)
        self.settle()
        for slot, state in enumerate(loan.slots):
            if state == "open" and not loan.ended:
                self.write_slot(peer, number, slot)
        written = [s for s, state in enumerate(loan.slots) if loan.ended or state == "committed"]
        leaves = [(leaf, number, slot) for leaf, slot in enumerate(written)]
        assert self.talk.say(peer, p.Attach(sequence, version, leaves)) == []
        self.tables[peer, sequence] = (version, leaves)

    @invariant()
    def tables_answer_from_their_own_keys(self):
        """Promise 2: exactly while all of a table stands, whoever asks with whatever version."""
        for peer in self.peers:
            for sequence, version in ((0, 1), (0, 2), (1, 1), (1, 2)):
                self.resolve(peer, sequence, version)

    def resolve(self, peer, sequence, version):
        attached, leaves = self.tables.get((peer, sequence), (None, []))
        loans = [self.loans[number] for _, number, _ in leaves]
        fresh = attached == version and all(
            not loan.ended and loan.expires > self.talk.now and loan.slots[slot] == "committed"
            for loan, (_, _, slot) in zip(loans, leaves, strict=True)
        )
        if not fresh:
            with pytest.raises(Fenced):
                self.rmanager.resolve(peer, sequence, version, self.talk.now)
            return
        found = self.rmanager.resolve(peer, sequence, version, self.talk.now)
        assert [leaf for leaf, _ in found] == [leaf for leaf, _, _ in leaves]
        for (_, block), (_, number, slot) in zip(found, leaves, strict=True):
            assert self.talk.pool.notes[block] == (number, slot)
            assert self.loans[number].debtor == self.peers[peer]

    @precondition(RManagerModel.has_loan)
    @rule(data=st.data())
    def read(self, data):
        peer, number, loan = self.peer_and_loan(data)
        self.tick()
        for slot, state in enumerate(loan.slots):
            if state == "committed" and not loan.ended:
                [out] = self.talk.say(peer, p.Read(number, slot, 0, BLOCK_BYTES))
                assert isinstance(out, CopyOut)
                assert self.talk.pool.notes[out.block] == (number, slot)

    # --- time -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 0.9, 1.03, 3.0, 5.0]), tick=st.booleans())
    def advance(self, seconds, tick):
        self.talk.now += seconds
        if tick:
            self.tick()

    # --- promises -------------------------------------------------------------------------------

    @invariant()
    def conservation(self):
        """Promise 1, and caps of promise 4."""
        self.rmanager.check()
        books = self.rmanager.books
        assert books.count(BlockState.LENT) == self.num_lent() <= self.cap
        assert {b: books.state(b) for b in self.drawn} == self.drawn
        assert books.count(BlockState.FREE) == books.num_blocks - len(self.drawn) - self.num_lent()

    @invariant()
    def a_believed_loan_stands(self):
        """Promise 5: no debtor with an honest clock uses a loan that has ended by time."""
        for loan in self.loans.values():
            assert loan.expires >= loan.believed

    @invariant()
    def an_unchanged_generation_means_unchanged_keys(self):
        """Promise 2 for readers of a map: they see nothing but generations."""
        for loan in self.loans.values():
            granted = zip(loan.granted.blocks, loan.granted.generations, strict=True)
            for slot, (block, generation) in enumerate(granted):
                if self.talk.pool.generation(block) == generation:
                    assert not loan.ended
                    assert loan.slots[slot] != "released"


TestRManager = RManagerMachine.TestCase
