"""A search for cached blocks: the real Pins, one sequence, and the pools' side of the talk."""

from collections import Counter

from scheduler_checks import LAYOUT, TOKENS

from engine import protocol as p
from engine.core import Plan, Request, Span
from engine.memory.blocks import ROOT, chain
from engine.memory.sketch import sketch
from engine.scheduler.debts import Debts
from engine.scheduler.effects import ToPool
from engine.scheduler.pins import Pins
from engine.scheduler.prices import FEW, Prices
from engine.scheduler.sequence import NOWHERE, Sequence

HOME, LEASE_S = 0, 30.0


def member(instance, contents, address=None):
    address = f"pool-{instance}" if address is None else address
    beat = {"pool_address": address, "sketch": sketch(contents)}
    return p.Member(instance, 1, "step", 9, 9, 0, 9, len(contents), **beat)


def prefill(num_rows):
    """A step of a prompt."""
    return Plan(1, (1,) * num_rows, (Span(1, 0, num_rows, 0, (), 0),))


class Search:
    """Pins, one sequence of ``num_tokens``, and the pools' side of the talk."""

    def __init__(self, num_tokens, *instances):
        self.effects, self.debts, self.now = [], Debts(), 100.0
        self.prices = Prices(LAYOUT)
        self.prices.timed(prefill(FEW), [9.0], 0.0)  # computing is slow
        self.pins = Pins(
            instance=HOME,
            tokens=TOKENS,
            prices=self.prices,
            debts=self.debts,
            effects=self.effects,
        )
        ids = list(range(1, num_tokens + 1))
        self.sequence = Sequence(1, Request(request_id="a", prompt_ids=tuple(ids)), ids)
        num_leaves = (num_tokens - 1) // TOKENS
        self.sequence.chain = chain(ROOT, ids, num_leaves, TOKENS)
        self.pins.on_members([member(one, self.sequence.chain) for one in instances])
        self.begun = self.search({*range(num_leaves)})
        self.granted = Counter()
        self.found = {}
        """leaf -> the first slot that was offered for it"""

    def search(self, leaves):
        wanted = {leaf: self.sequence.chain[leaf] for leaf in sorted(leaves)}
        return self.pins.search(self.sequence, wanted, LEASE_S, self.now)

    def asked(self):
        """instance -> its Pin, in the order of asking."""
        sent = [one for one in self.effects if isinstance(one, ToPool)]
        return {one.instance: one.message for one in sent if isinstance(one.message, p.Pin)}

    def answer(self, instance, leaves, *, loan=None, reservation=None):
        """The pool has these leaves."""
        loan = (10 + instance if leaves else 0) if loan is None else loan
        reservation = reservation or self.asked()[instance].reservation
        blocks = [100 * instance + leaf for leaf in leaves]
        answer = p.Pinned(reservation, loan, list(leaves), blocks, [3] * len(blocks), LEASE_S)
        self.pins.on_pinned(instance, answer)
        return answer

    def released(self):
        """(instance, loan, slots) of each Release; no slots: all."""
        sent = [one for one in self.effects if isinstance(one, ToPool)]
        return [
            (one.instance, one.message.loan, one.message.slots)
            for one in sent
            if isinstance(one.message, p.Release)
        ]

    def result(self, seconds=0.0):
        self.now += seconds
        return self.pins.result(self.now)


def check_table(sequence, found):
    """``found``: leaf -> (instance, loan, slot)."""
    places = [(ref.instance, ref.loan, ref.slot) for ref in sequence.table]
    num_leaves = max(found, default=-1) + 1
    nowhere = (NOWHERE.instance, NOWHERE.loan, NOWHERE.slot)
    assert places == [found.get(leaf, nowhere) for leaf in range(num_leaves)]
    missing = [position for first, end in sequence.holes for position in range(first, end)]
    lost = [leaf for leaf in range(num_leaves) if leaf not in found]
    assert missing == [leaf * TOKENS + i for leaf in lost for i in range(TOKENS)]
    assert sequence.num_computed == num_leaves * TOKENS
    assert len(sequence.hashes) == num_leaves
    assert Counter(sequence.loans) == Counter((at, loan) for at, loan, _ in found.values())


def given_back(search, slots):
    """Of these slots, each once."""
    back = []
    for instance, loan, some in search.released():
        mine = {one for one in slots if one[:2] == (instance, loan)}
        back += [(instance, loan, slot) for slot in some] if some else mine - {*back}
    assert len(back) == len({*back}), "a slot is given back twice"
    return {*back} & slots
