"""Protects: however answers are delayed, repeated and mixed, each granted loan is used or back.

Fake creditors with real numbers: each grants while it has blocks, and keeps a list of its loans.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from negotiator_harness import HOME, creditor, need

from engine import protocol as p
from engine.scheduler.debts import Debts
from engine.scheduler.effects import ToPlanner, ToPool
from engine.scheduler.ledger import LedgerPlacement
from engine.scheduler.negotiator import Negotiator, Placed


class NegotiatorMachine(RuleBasedStateMachine):
    @initialize(free=st.lists(st.integers(0, 12), min_size=1, max_size=4))
    def start(self, free):
        self.free = dict(enumerate(free, 1))
        self.now, self.next_loan, self.next_sequence = 100.0, 1, 1
        self.effects, self.debts = [], Debts()
        placement = LedgerPlacement(LedgerPlacement.Config())
        self.negotiator = Negotiator(placement, self.debts, effects=self.effects)
        self.queries, self.reserves, self.answers, self.repeats = [], [], [], []
        self.loans = {}  # (instance, loan) -> blocks; what stands at the creditors
        self.open, self.used, self.lost = {}, set(), set()

    def settle(self):
        """Carry out effects, take outcomes."""
        for effect in self.effects:
            if isinstance(effect, ToPlanner):
                self.queries.append(effect.message)
            elif isinstance(effect, ToPool) and isinstance(effect.message, p.Reserve):
                self.reserves.append((effect.instance, effect.message))
            elif isinstance(effect, ToPool):
                key = effect.instance, effect.message.loan
                assert key not in self.used, "a loan in use is released"
                self.free[effect.instance] += self.loans.pop(key, 0)
        self.effects.clear()
        while self.negotiator.outcomes:
            outcome = self.negotiator.outcomes.pop(0)
            wanted = self.open.pop(outcome.sequence)
            if isinstance(outcome, Placed):
                assert len(outcome.holders) == wanted
                for instance, grant in outcome.grants.items():
                    assert outcome.holders.count(instance) == len(grant.blocks)
                    assert (instance, grant.loan) in self.debts
                    self.used.add((instance, grant.loan))
                assert set(outcome.holders) == {HOME, *outcome.grants}

    @rule(num_blocks=st.integers(5, 20))
    def borrow(self, num_blocks):
        self.open[self.next_sequence] = num_blocks
        self.negotiator.borrow(self.next_sequence, need(num_blocks), self.now)
        self.next_sequence += 1
        self.settle()

    @precondition(lambda self: self.queries)
    @rule(data=st.data(), stale=st.integers(-2, 2))
    def offer(self, data, stale):
        query = data.draw(st.sampled_from(self.queries)).query
        creditors = [creditor(at, max(0, free + stale)) for at, free in self.free.items()]
        self.negotiator.on_offer(p.BorrowOffer(query, creditors, 99), self.now)
        self.settle()

    @precondition(lambda self: self.reserves)
    @rule(data=st.data())
    def a_creditor_decides(self, data):
        index = data.draw(st.sampled_from(range(len(self.reserves))))
        instance, reserve = self.reserves.pop(index)
        if reserve.num_blocks > self.free[instance]:
            refused = p.Refused(reserve.reservation, self.free[instance])
            self.answers.append((instance, refused))
            return
        self.free[instance] -= reserve.num_blocks
        self.loans[instance, self.next_loan] = reserve.num_blocks
        blocks = list(range(reserve.num_blocks))
        granted = p.Granted(reserve.reservation, self.next_loan, blocks, blocks, 30.0)
        self.answers.append((instance, granted))
        self.next_loan += 1

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def an_answer_arrives(self, data):
        index = data.draw(st.sampled_from(range(len(self.answers))))
        self.repeats.append(self.answers.pop(index))
        self.arrive(*self.repeats[-1])

    @precondition(lambda self: self.repeats)
    @rule(data=st.data())
    def an_answer_arrives_again(self, data):
        self.arrive(*data.draw(st.sampled_from(self.repeats)))

    def arrive(self, instance, message):
        if isinstance(message, p.Granted):
            self.negotiator.on_granted(instance, message, self.now)
        else:
            self.negotiator.on_refused(instance, message, self.now)
        self.settle()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[sequence]
        self.negotiator.cancel(sequence)
        self.settle()

    @rule(data=st.data())
    def lose(self, data):
        """The channel is gone with all messages on it; the creditor forgets its loans at last."""
        instance = data.draw(st.sampled_from(sorted(self.free)))
        for name in ("reserves", "answers", "repeats"):
            setattr(self, name, [one for one in getattr(self, name) if one[0] != instance])
        for key in [key for key in self.loans if key[0] == instance]:
            self.free[instance] += self.loans.pop(key)
        self.used -= self.debts.forget(instance)
        for key in [(instance, loan) for loan in self.debts.of(instance)]:
            self.debts.remove(*key)
        self.negotiator.on_lost(instance, self.now)
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 4.0]))
    def tick(self, seconds):
        self.now += seconds
        self.negotiator.tick(self.now)
        self.settle()

    @invariant()
    def debts_are_what_deals_and_outcomes_hold(self):
        held = {
            (instance, grant.loan)
            for deal in self.negotiator._deals.values()
            for instance, grant in deal.grants.items()
        }
        assert self.debts._debts.keys() == held | self.used
        assert self.open.keys() == self.negotiator._deals.keys()

    def teardown(self):
        """All answers arrive and time passes: what stands is used."""
        while self.reserves or self.answers:
            for instance, reserve in self.reserves:
                self.answers.append((instance, p.Refused(reserve.reservation, 0)))
            self.reserves = []
            for instance, message in [self.answers.pop(0) for _ in list(self.answers)]:
                self.arrive(instance, message)
        self.now += 5
        self.negotiator.tick(self.now)
        self.settle()
        assert not self.open
        assert self.loans.keys() == self.used


TestNegotiator = NegotiatorMachine.TestCase
