"""A Negotiator and the short ways to talk to it."""

from engine import protocol as p
from engine.scheduler.base import Need
from engine.scheduler.debts import Debts
from engine.scheduler.effects import ToPlanner, ToPool
from engine.scheduler.ledger import LedgerPlacement
from engine.scheduler.negotiator import Negotiator

HOME = 0


def need(num_blocks):
    """Of the own pool's 10 blocks 4 are free; 2 are kept for work when something is lent."""
    return Need(
        owner=HOME,
        host="a",
        num_blocks=num_blocks,
        num_local=4,
        num_pool=10,
        working_blocks=2,
    )


def creditor(instance, num_lendable):
    return p.Creditor(instance, 1, f"at-{instance}", "a", num_lendable)


class Talk:
    def __init__(self, placement=None):
        self.effects, self.debts, self.now = [], Debts(), 100.0
        self.negotiator = Negotiator(
            placement or LedgerPlacement(LedgerPlacement.Config()), self.debts, effects=self.effects
        )

    @property
    def outcomes(self):
        return self.negotiator.outcomes

    def messages(self, kind):
        """(instance, message) of each message of this kind sent so far."""
        sent = [one for one in self.effects if isinstance(one, ToPool)]
        return [(one.instance, one.message) for one in sent if isinstance(one.message, kind)]

    def reserved(self):
        return [(at, message.num_blocks) for at, message in self.messages(p.Reserve)]

    def released(self):
        return [(at, message.loan) for at, message in self.messages(p.Release)]

    def reservation(self, instance):
        return [message.reservation for at, message in self.messages(p.Reserve) if at == instance][
            -1
        ]

    def borrow(self, num_blocks, *creditors, sequence=5, cap=99, offer=True, part=False):
        self.negotiator.borrow(sequence, need(num_blocks), self.now, part=part)
        if offer:
            self.offer(*creditors, cap=cap)

    def offer(self, *creditors, cap=99):
        query = [one.message.query for one in self.effects if isinstance(one, ToPlanner)][-1]
        self.negotiator.on_offer(p.BorrowOffer(query, list(creditors), cap), self.now)

    def granted(self, instance, loan):
        """What the creditor answers to the last Reserve it got."""
        [*_, num_blocks] = [number for at, number in self.reserved() if at == instance]
        blocks = list(range(num_blocks))
        return p.Granted(self.reservation(instance), loan, blocks, blocks, 30.0)

    def grant(self, instance, loan):
        self.negotiator.on_granted(instance, self.granted(instance, loan), self.now)

    def refuse(self, instance, num_lendable):
        refused = p.Refused(self.reservation(instance), num_lendable)
        self.negotiator.on_refused(instance, refused, self.now)
