"""Negotiator, the debtor's side of borrowing: all the blocks a sequence needs, or none. No I/O.

One that runs can use some of what it asked for, and takes what there is.
Asks the planner who could lend, lets the placement choose, reserves at each creditor. The planner
is stale by design: creditors may refuse. When all have answered the choice is made again with what
these said; what others have granted is kept as far as it is chosen again.
(PAPER section 2.1: the creditors are tried in turn; their own tables decide.)
"""

from dataclasses import dataclass, replace

from engine.errors import CapacityError
from engine.protocol import (
    BorrowOffer,
    BorrowQuery,
    Creditor,
    Granted,
    Refused,
    Release,
    Reserve,
)
from engine.scheduler.base import Need, Placement
from engine.scheduler.deal import Deal
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Connect, Effect, ToPlanner, ToPool


@dataclass(frozen=True, slots=True)
class Placed:
    """Every block has a place: ``holders`` by leaf, and the loans that were granted for them."""

    sequence: int
    holders: tuple[int, ...]
    grants: dict[int, Granted]


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """Nothing is held. ``hopeless`` when no instance could ever lend enough."""

    sequence: int
    reason: str
    hopeless: bool
    is_held: bool = False
    """the planner holds memory for it"""


Outcome = Placed | NotPlaced

SUSPECT_S = 3.0
"""an epoch that was lost is not asked again for so long; the planner still offers it meanwhile"""


class Negotiator:
    """One deal for each sequence that is being placed."""

    def __init__(
        self,
        placement: Placement,
        debts: Debts,
        *,
        effects: list[Effect],
        lease_s: float = 30.0,
        timeout_s: float = 5.0,
        answer_s: float = 1.0,
        max_rounds: int = 3,
    ) -> None:
        self._placement = placement
        self._debts = debts
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._answer_s = answer_s
        self._max_rounds = max_rounds
        self._deals: dict[int, Deal] = {}
        self._next_id = 1
        self._epochs: dict[int, int] = {}
        """instance -> its epoch when it was last offered"""
        self._suspects: dict[int, tuple[int, float]] = {}
        """instance -> the epoch that was lost, and until when it is not asked"""
        self._effects = effects
        self.outcomes: list[Outcome] = []

    @property
    def is_dealing(self) -> bool:
        return bool(self._deals)

    def under_way(self, sequence: int) -> int:
        """Blocks that a deal for it may bring."""
        deal = self._deals.get(sequence)
        return deal.need.num_lacking if deal else 0

    def borrow(
        self,
        sequence: int,
        need: Need,
        now: float,
        *,
        arrived: float | None = None,
        priority: int = 0,
        to: Creditor | None = None,
        part: bool = False,
    ) -> None:
        """Start a deal; its outcome will be in ``outcomes``. With ``to`` nobody else is asked.

        ``arrived``: when the request came; creditors prefer urgent ones, then older ones. ``part``:
        where there is less than it needs, it takes that.
        """
        query = self._take_id()
        born = now if arrived is None else arrived
        deal = Deal(sequence, need, now, query, born, priority, part, asked_at=now)
        self._deals[sequence] = deal
        if to is not None:
            deal.creditors = [to]
            self._reserve(deal, now)
            return
        self._query(deal, now)

    def cancel(self, sequence: int) -> None:
        """Give up a deal without an outcome, also one that nobody has acted on yet."""
        deal = self._deals.pop(sequence, None)
        if deal is not None:
            self._undo(deal)
        for outcome in [one for one in self.outcomes if one.sequence == sequence]:
            self.outcomes.remove(outcome)
            if isinstance(outcome, Placed):
                for instance, grant in outcome.grants.items():
                    self._release(instance, grant)

    def on_offer(self, offer: BorrowOffer, now: float) -> None:
        for deal in list(self._deals.values()):
            if deal.query == offer.query and not deal.rounds:
                self._epochs |= {one.instance: one.epoch for one in offer.creditors}
                deal.creditors = offer.creditors
                deal.know({c.instance: 0 for c in offer.creditors if self._is_suspect(c, now)})
                deal.num_lend_cap = offer.num_lend_cap
                deal.is_held = offer.is_held
                self._reserve(deal, now)

    def on_granted(self, instance: int, message: Granted, now: float) -> None:
        if (instance, message.loan) in self._debts:
            return  # the same answer again
        deal = self._deal_of(message.reservation)
        if deal is None:
            # The deal was given up meanwhile: an unused loan goes back at once.
            self._effects.append(ToPool(instance, Release(message.loan)))
            return
        del deal.asked[message.reservation]
        deal.grants[instance] = message
        self._debts.add(instance, message.loan, lease_s=message.lease_s, asked_at=deal.asked_at)
        self._go_on(deal, now)

    def on_refused(self, instance: int, message: Refused, now: float) -> None:
        deal = self._deal_of(message.reservation)
        if deal is not None:
            del deal.asked[message.reservation]
            deal.know({instance: message.num_lendable})
            self._go_on(deal, now)

    def on_recall(self, instance: int, loan: int, now: float) -> None:
        """A creditor wants back what no sequence has yet: the deal chooses again without it."""
        for deal in list(self._deals.values()):
            grant = deal.grants.get(instance)
            if grant is not None and grant.loan == loan:
                self._give_back(deal, instance)
                deal.know({instance: 0})
                self._go_on(deal, now)

    def on_lost(self, instance: int, now: float) -> None:
        """The instance is gone: nothing can be had from it now."""
        self._suspect(instance, now)
        for deal in list(self._deals.values()):
            if instance in deal.asked.values() or instance in deal.grants:
                deal.grants.pop(instance, None)
                self._without(deal, {instance}, now)

    def on_gone(self, loans: set[tuple[int, int]], now: float) -> None:
        """These loans have ended; a deal that counted on one chooses again."""
        for deal in list(self._deals.values()):
            gone = {of for of, grant in deal.grants.items() if (of, grant.loan) in loans}
            if gone:
                for instance in gone:
                    self._give_back(deal, instance)
                self._without(deal, gone, now)

    def tick(self, now: float) -> None:
        for deal in list(self._deals.values()):
            if deal.asked and now - deal.asked_at >= self._answer_s:
                silent = set(deal.asked.values())
                for instance in silent:
                    self._suspect(instance, now)
                self._without(deal, silent, now)  # what they grant too late goes back
            elif not deal.asked and now - deal.started >= self._timeout_s:
                self._fail(deal, f"no answer from the planner in {self._timeout_s:g} s", False)
            elif not deal.asked and now - deal.asked_at >= self._answer_s:
                deal.asked_at = now
                self._query(deal, now)  # it may have been restarted

    def _query(self, deal: Deal, now: float) -> None:
        need, age_s = deal.need, max(0.0, now - deal.arrived)
        wanted = max(need.num_blocks - need.num_keepable, 1)
        query = BorrowQuery(
            deal.query,
            need.owner,
            need.host,
            wanted,
            age_s,
            deal.priority,
            need.num_local,
            deal.part,
        )
        self._effects.append(ToPlanner(query))

    def _reserve(self, deal: Deal, now: float) -> None:
        deal.asked_at = now
        deal.rounds += 1
        if deal.rounds > self._max_rounds:
            self._fail(deal, f"creditors changed their mind {self._max_rounds} times", False)
            return
        try:
            need = deal.what_there_is if deal.part else deal.need
            deal.holders = self._placement.place(need, deal.creditors)
        except CapacityError as error:
            # A greeting ends what an earlier life of this instance still holds there.
            self._effects += [Connect(c.instance, c.address) for c in deal.creditors]
            self._fail(deal, str(error), self._is_hopeless(deal))
            return
        by_instance = {creditor.instance: creditor for creditor in deal.creditors}
        missing = deal.missing
        for instance in [of for of in deal.grants if of not in deal.wanted or of in missing]:
            self._give_back(deal, instance)
        for instance, num_blocks in missing.items():
            reservation = self._take_id()
            deal.asked[reservation] = instance
            self._effects.append(Connect(instance, by_instance[instance].address))
            age_s = max(0.0, now - deal.arrived)
            reserve = Reserve(reservation, num_blocks, self._lease_s, age_s, deal.priority)
            self._effects.append(ToPool(instance, reserve))
        if not deal.asked:
            self._go_on(deal, now)

    def _go_on(self, deal: Deal, now: float) -> None:
        """When all who were asked have answered: it is done, or what is missing is asked for."""
        if deal.asked:
            return
        if deal.missing:
            self._reserve(deal, now)
        else:
            del self._deals[deal.sequence]
            self.outcomes.append(Placed(deal.sequence, deal.holders, deal.grants))

    def _without(self, deal: Deal, creditors: set[int], now: float) -> None:
        """Nothing can be had from these."""
        deal.asked = {asked: of for asked, of in deal.asked.items() if of not in creditors}
        deal.know(dict.fromkeys(creditors, 0))
        self._go_on(deal, now)

    def _fail(self, deal: Deal, reason: str, hopeless: bool) -> None:
        self._undo(deal)
        self._deals.pop(deal.sequence, None)
        self.outcomes.append(NotPlaced(deal.sequence, reason, hopeless, deal.is_held))

    def _undo(self, deal: Deal) -> None:
        for instance in list(deal.grants):
            self._give_back(deal, instance)
        deal.asked = {}  # what is still granted for these is released when it comes

    def _give_back(self, deal: Deal, instance: int) -> None:
        self._release(instance, deal.grants.pop(instance))

    def _release(self, instance: int, grant: Granted) -> None:
        self._debts.remove(instance, grant.loan)
        self._effects.append(ToPool(instance, Release(grant.loan)))

    def _is_hopeless(self, deal: Deal) -> bool:
        """Not even with all pools to itself could the sequence be placed."""
        need = replace(deal.need, num_local=deal.need.num_pool)
        try:
            self._placement.place(need, [Creditor(-1, 0, "", need.host, deal.num_lend_cap)])
        except CapacityError:
            return True
        return False

    def _suspect(self, instance: int, now: float) -> None:
        if instance in self._epochs:
            self._suspects[instance] = (self._epochs[instance], now + SUSPECT_S)

    def _is_suspect(self, creditor: Creditor, now: float) -> bool:
        epoch, until = self._suspects.get(creditor.instance, (-1, 0.0))
        return creditor.epoch == epoch and now < until

    def _deal_of(self, reservation: int) -> Deal | None:
        return next((d for d in self._deals.values() if reservation in d.asked), None)

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id
