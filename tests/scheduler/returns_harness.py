"""Returns over real holdings; the test is the pool, the fetcher and the clock.

``Home.perform`` reads the effects as those who carry them out would, and holds them to their order.
"""

from collections import Counter

from scheduler_checks import LAYOUT, TOKENS

from engine import protocol as p
from engine.core import BlockRef, Request
from engine.memory.blocks import ROOT, chain_hash
from engine.scheduler.chronicle import Chronicle
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Cancel, Fetch, Finish, Move, ToPool
from engine.scheduler.holdings import Holdings
from engine.scheduler.returns import Returns
from engine.scheduler.sequence import NOWHERE, Sequence

HOME = 0


class Home:
    def __init__(self, num_blocks=0):
        self.effects, self.debts, self.now = [], Debts(), 100.0
        self.holdings = Holdings(
            instance=HOME,
            layout=LAYOUT,
            debts=self.debts,
            chronicle=Chronicle(),
            effects=self.effects,
        )
        self.returns = Returns(self.holdings)
        self.sequences = []
        self.num_given = 0
        self.fetches = {}
        """(sequence, leaf) -> the Fetch under way"""
        self.moves = set()
        self.cancelled = []
        self.released = []
        """(instance, loan, slot), in order"""
        self.draws = []
        if num_blocks:
            self.give(num_blocks)

    @property
    def store(self):
        return self.holdings.store

    def give(self, num_blocks):
        """The pool's answer to a draw."""
        blocks = list(range(self.num_given, self.num_given + num_blocks))
        self.num_given += num_blocks
        self.holdings.on_drawn(p.Drawn(blocks, 0))

    def sequence(self, *holders, targets=()):
        """Sealed leaves at these holders; ``targets`` (leaf -> instance): where own ones move."""
        number = len(self.sequences) + 1
        ids = [100 + number, *range(1, len(holders) * TOKENS + 1)]
        one = Sequence(number, Request(request_id=str(number), prompt_ids=tuple(ids)), ids)
        one.num_computed = len(holders) * TOKENS
        for leaf, instance in enumerate(holders):
            chunk = ids[leaf * TOKENS : (leaf + 1) * TOKENS]
            one.hashes.append(chain_hash(one.hashes[-1] if leaf else ROOT, chunk))
            if instance == HOME:
                self.give(1)
                [block] = self.store.allocate(1)
                self.store.seal(block, one.hashes[-2] if leaf else ROOT, chunk)
                one.table.append(BlockRef(HOME, block))
            else:
                one.table.append(self._slot(one, instance))
        one.targets = {leaf: self._slot(one, instance) for leaf, instance in dict(targets).items()}
        one.home = self.holdings.home_of(one)
        self.holdings.move_sealed(one)
        self.sequences.append(one)
        self.perform()
        return one

    def _slot(self, sequence, instance):
        loan = sequence.number
        if (instance, loan) not in sequence.loans:
            self.debts.add(instance, loan, lease_s=30.0, asked_at=self.now)
            sequence.loans[instance, loan] = 0
        slot = sequence.loans[instance, loan]
        sequence.loans[instance, loan] += 1
        return BlockRef(instance, 10 * loan + slot, loan, slot)

    # --- what happens -----------------------------------------------------------------------

    def recall(self, sequence, instance, slots, within_s):
        message = p.Recall(sequence.number, list(slots), within_s)
        self.returns.recall(self.sequences, instance, message, self.now)
        self.perform()

    def settle(self, instance, num_blocks):
        self.returns.settle(self.sequences, instance, num_blocks)

    def tick(self, seconds=0.0):
        """The sequence that waits for room in vain."""
        self.now += seconds
        short = self.returns.tick(self.sequences, self.now, self.lose)
        self.perform()
        return short

    def lose(self, sequence, leaves):
        """As Roster.wound does."""
        self.returns.forget(sequence, leaves)
        sequence.open_holes(leaves, TOKENS)

    def arrive(self, number, leaf, *, known=True):
        """A fetch is done; not ``known``: its sequence is not there any more."""
        self.fetches.pop((number, leaf), None)
        found = [one for one in self.sequences if one.number == number and known]
        self.returns.on_fetched(found[0] if found else None, number, leaf)
        self.perform()

    def drop(self, sequence):
        self.returns.drop(sequence)
        self.holdings.drop(sequence, final=True)
        self.sequences.remove(sequence)
        self.perform()

    def perform(self):
        for effect in self.effects:
            match effect:
                case Fetch():
                    key = (effect.sequence, effect.leaf)
                    assert key not in self.fetches, "a leaf is fetched twice at once"
                    self.fetches[key] = effect
                case Move():
                    self.moves.add((effect.sequence, effect.leaf))
                case Cancel():
                    key = (effect.sequence, effect.leaf)
                    assert key in self.fetches or key in self.moves
                    self.cancelled.append(key)
                    self.fetches.pop(key, None)
                    self.moves.discard(key)
                case ToPool(message=p.Draw()):
                    self.draws.append(effect.message.num_blocks)
                case ToPool(message=p.Release()):
                    self._release(effect.instance, effect.message)
                case Finish():
                    self.moves = {key for key in self.moves if key[0] != effect.sequence}
        self.effects.clear()

    def _release(self, instance, message):
        for slot in message.slots:
            key = (instance, message.loan, slot)
            assert key not in self.released, "a slot is given back twice"
            refs = [(one.ref.instance, one.ref.loan, one.ref.slot) for one in self.fetches.values()]
            assert key not in refs, "a slot is given back while it is read"
            self.released.append(key)

    # --- what must hold ---------------------------------------------------------------------

    def check(self):
        """Each own block has one user; each slot of a loan one leaf, or it was given back."""
        used = Counter(self.returns.blocks())
        for one in self.sequences:
            assert one.home == self.holdings.home_of(one)
            used.update(ref.block for ref in one.table if ref is not NOWHERE and not ref.loan)
            refs = [*(ref for ref in one.table if ref.loan), *one.targets.values()]
            assert Counter((ref.instance, ref.loan) for ref in refs) == Counter(one.loans)
            assert not {(ref.instance, ref.loan, ref.slot) for ref in refs} & {*self.released}
            assert all(one.table[leaf].loan for leaf in one.returning)
        self.store.check(used)
        assert sorted(self.returns.blocks()) == sorted(f.block for f in self.fetches.values())
        known = {key for one in self.sequences for key in one.loans}
        assert known == self.debts._debts.keys(), "an account that no leaf has"
