"""The model of an RManager in plain dicts: who is connected, what is lent, until when."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize
from rmanager_harness import Talk

from engine import protocol as p

SLOW_CLOCK = 1.04
DRIFT = 1.05


@dataclass
class ModelLoan:
    debtor: tuple[int, int]
    reservation: int
    granted: p.Granted
    slots: list[str]
    expires: float
    believed: float
    """until when the debtor, by its own clock, may use the loan"""
    ended: bool = False


class RManagerModel(RuleBasedStateMachine):
    """Rules and promises are added in test_rmanager_machine.py."""

    @initialize(num_blocks=st.integers(2, 8), keep_blocks=st.integers(0, 2))
    def start(self, num_blocks, keep_blocks):
        self.talk = Talk(num_blocks, lend_fraction=0.8, keep_blocks=keep_blocks)
        self.rmanager = self.talk.rmanager
        self.cap = int(0.8 * num_blocks)
        self.peers, self.epochs, self.met, self.tables = {}, {1: 1, 2: 1}, set(), {}
        self.loans, self.renews = {}, []
        self.step, self.drawn = None, {}
        self.next_peer = self.next_reservation = 1

    # --- the model's own books ------------------------------------------------------------------

    def settle(self):
        """What any call does first: leases end."""
        for loan in self.loans.values():
            loan.ended |= loan.expires <= self.talk.now

    def tick(self):
        self.settle()
        self.rmanager.tick(self.talk.now)

    def say(self, peer, message, num_bytes=0):
        self.settle()
        return self.talk.ask(peer, message, num_bytes)

    def extend(self, loan, sent):
        lease_s = loan.granted.lease_s
        loan.expires = max(loan.expires, self.talk.now + lease_s * DRIFT)
        loan.believed = max(loan.believed, sent + lease_s * SLOW_CLOCK)

    def end_slots(self, loan, slots):
        ended = [s for s in slots if not loan.ended and loan.slots[s] != "released"]
        for slot in ended:
            loan.slots[slot] = "released"
        loan.ended |= all(slot == "released" for slot in loan.slots)
        return ended

    def peer_and_loan(self, data):
        """A connected debtor and one of its loans, perhaps ended."""
        pairs = [
            (peer, number)
            for peer, debtor in self.peers.items()
            for number, loan in self.loans.items()
            if loan.debtor == debtor
        ]
        peer, number = data.draw(st.sampled_from(pairs))
        return peer, number, self.loans[number]

    def has_loan(self):
        return bool({loan.debtor for loan in self.loans.values()} & set(self.peers.values()))

    def num_lent(self):
        return sum(
            slot != "released"
            for loan in self.loans.values()
            if not loan.ended
            for slot in loan.slots
        )

    def lose(self, peer):
        self.settle()
        self.rmanager.peer_lost(peer, self.talk.now)
        self.peers.pop(peer)
        self.tables = {key: table for key, table in self.tables.items() if key[0] != peer}
