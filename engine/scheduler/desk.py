"""Desk: a step's correspondence with pools and planner, and the memory that comes of it. No I/O.

When memory is short: draw from the own pool, call back what it lent, borrow, take host memory, hand
the youngest sequence to an instance that has room, or preempt it, where that costs less: it waits,
and gives up its last blocks as elder ones want them. When a holder is lost, only what it held is
computed again.
"""

from typing import TypeAlias

from engine import protocol as p
from engine.core import BlockLayout
from engine.scheduler.admission import Admission
from engine.scheduler.allowance import Allowance
from engine.scheduler.base import Need, Placement
from engine.scheduler.batch import Batch
from engine.scheduler.chronicle import Chronicle
from engine.scheduler.chunks import Chunks
from engine.scheduler.clients import Clients
from engine.scheduler.config import SchedulerConfig
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Effect
from engine.scheduler.growth import Growth
from engine.scheduler.holdings import Holdings
from engine.scheduler.loads import Loads
from engine.scheduler.negotiator import Negotiator, NotPlaced, Placed
from engine.scheduler.neighbours import Neighbours
from engine.scheduler.pins import Pins
from engine.scheduler.preemption import Preemption
from engine.scheduler.prices import Prices
from engine.scheduler.returns import Returns
from engine.scheduler.roster import Roster
from engine.scheduler.sequence import Sequence, State


class Desk:
    """What a Scheduler hears and answers; see there for the requests and the steps."""

    Config: TypeAlias = SchedulerConfig

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        instance: int,
        host: str,
        layout: BlockLayout,
        placement: Placement,
        num_blocks: int,
        max_positions: int,
        eos_ids: frozenset[int],
        epoch: int = 0,
        model: str = "",
    ) -> None:
        """``model``: keys are used again by instances of the same one only."""
        self._config = config
        self._instance = instance
        self._layout = layout
        self._next_strain = 0.0
        self._effects: list[Effect] = []
        self.clients = Clients(max_positions=max_positions, eos_ids=eos_ids, effects=self._effects)
        self.debts = Debts()
        self.chronicle = Chronicle()
        self.holdings = Holdings(
            instance=instance,
            layout=layout,
            model=model,
            debts=self.debts,
            chronicle=self.chronicle,
            effects=self._effects,
        )
        self.negotiator = Negotiator(
            placement, self.debts, effects=self._effects, lease_s=config.lease_s
        )
        self.prices = Prices(layout)
        self.pins = Pins(
            instance=instance,
            tokens=layout.tokens,
            prices=self.prices,
            debts=self.debts,
            effects=self._effects,
        )
        self.returns = Returns(self.holdings)
        self.loads = Loads(instance, epoch)
        need = Need(
            owner=instance,
            host=host,
            num_blocks=0,
            num_local=0,
            num_pool=num_blocks,
            working_blocks=layout.blocks_for(config.max_step_tokens) + 1,
        )
        self.allowance = Allowance(
            need=need,
            layout=layout,
            debts=self.debts,
            negotiator=self.negotiator,
            sequences=lambda: self.roster.all(),
        )
        self.growth = Growth(
            need=need,
            layout=layout,
            holdings=self.holdings,
            negotiator=self.negotiator,
            allowance=self.allowance,
            grow_blocks=config.grow_blocks,
        )
        self.admission = Admission(
            need=need,
            layout=layout,
            placement=placement,
            holdings=self.holdings,
            negotiator=self.negotiator,
            pins=self.pins,
            growth=self.growth,
            retry_s=config.retry_s,
            lease_s=config.lease_s,
            sure_s=config.sure_s,
            prefix_caching=config.prefix_caching,
            loads=self.loads,
            effects=self._effects,
        )
        self.chunks = Chunks(config.max_step_tokens, config.max_tpot_s)
        self.batch = Batch(layout, self.chunks)
        self.neighbours = Neighbours(instance)
        self.roster = Roster(
            layout=layout,
            holdings=self.holdings,
            admission=self.admission,
            returns=self.returns,
            negotiator=self.negotiator,
            pins=self.pins,
            debts=self.debts,
        )
        self._preemption = Preemption(
            layout=layout,
            roster=self.roster,
            batch=self.batch,
            holdings=self.holdings,
            clients=self.clients,
            neighbours=self.neighbours,
            loads=self.loads,
            prices=self.prices,
            grow_blocks=config.grow_blocks,
            hand_over=config.hand_over,
            num_missing=self.admission.num_missing,
        )
        self.is_leaving = False
        self._next_number = 1

    @property
    def running(self) -> list[Sequence]:
        return self.roster.running

    def on_message(self, instance: int, message: p.Message, now: float) -> None:
        """A pool's answer, or its wish."""
        self.chronicle.hear(message, now)
        match message:
            case p.Drawn():
                self._on_drawn(message, now)
            case p.Granted():
                self.negotiator.on_granted(instance, message, now)
            case p.Refused():
                self.negotiator.on_refused(instance, message, now)
            case p.Pinned():
                self.pins.on_pinned(instance, message)
            case p.Evicted():
                self.holdings.store.contents.evicted(message.contents)
            case p.Renewed():
                self.roster.lose(self.debts.on_renewed(instance, message), now)
            case p.Recall():
                self.negotiator.on_recall(instance, message.loan, now)
                self.returns.recall(self.roster.all(), instance, message, now)
            case p.Busy():
                self.roster.pause(instance, message.for_s, now)
            case p.FencedOff():  # which loans stand? The answer to a Renew says it
                self._effects += self.debts.renew(instance, now)
        self._settle(now)

    def on_offer(self, offer: p.BorrowOffer, now: float) -> None:
        if not offer.query:
            self.admission.wake()
        self.negotiator.on_offer(offer, now)
        self._settle(now)

    def on_advice(self, message: p.Message, now: float) -> None:
        """The planner's view and its wishes; it may be late, and is never needed."""
        match message:
            case p.Members():
                self.pins.on_members(message.members)
                self.neighbours.on_members(message.members)
            case p.Move():
                for sequence in self.running:
                    if sequence.number == message.sequence and not sequence.is_prefill:
                        self.growth.lend_out(sequence, message.num_blocks, now, message.to)
            case p.Settle():
                self.returns.settle(self.running, message.creditor, message.num_blocks)
            case p.Evacuate():
                self._leave()
        self._settle(now)

    def on_moved(self, number: int, leaf: int) -> None:
        """The mover's report that a holder has committed a leaf."""
        for sequence in self.roster.all():
            if sequence.number == number and leaf in sequence.moving:
                self.holdings.moved(sequence, leaf)
                self.admission.wake()

    def on_fetched(self, number: int, leaf: int, now: float) -> None:
        """The fetcher's report that a leaf has come home."""
        found = [sequence for sequence in self.roster.all() if sequence.number == number]
        pace = self.returns.pace(number, leaf, now)
        if pace is not None:
            self.prices.copied(pace)
        self.returns.on_fetched(found[0] if found else None, number, leaf)
        self._settle(now)

    def on_lost(self, instance: int, now: float) -> None:
        """An instance's pool is gone: what lay there must be computed again."""
        self.chronicle.count("lost_peer")
        gone = self.debts.forget(instance)
        self.pins.on_lost(gone, instance)
        self.roster.lose(gone, now)
        self.negotiator.on_lost(instance, now)
        self._settle(now)

    def tick(self, now: float) -> None:
        self.chronicle.now = now
        self.roster.note_arrivals(now)
        if now >= self.debts.next_renewal:  # else no lease is near its end
            self.roster.lose(self.debts.expired(now), now)
            self._effects += self.debts.tick(now)
        self.negotiator.tick(now)
        if len(self.running) < self._config.max_num_seqs:
            self.admission.admit(now)
        short = self.returns.tick(self.roster.all(), now, self.roster.wound)
        if short is not None and short.state is State.RUNNING:
            self.growth.lend_out(short, self._config.grow_blocks, now)
        self._settle(now)

    def _on_drawn(self, message: p.Drawn, now: float) -> None:
        self.loads.relief["host_blocks"] += message.num_host
        sequence = self.holdings.on_drawn(message)
        if sequence is None:
            return
        if sequence is self.admission.placing:
            self.admission.on_drawn(message, now)
        elif self.growth.on_drawn(sequence, message, now):
            self._preemption.make_room(sequence)

    def _settle(self, now: float) -> None:
        """Act on what the negotiator has found."""
        while self.negotiator.outcomes:
            outcome = self.negotiator.outcomes.pop(0)
            grows = outcome.sequence in self.growth.borrowing
            if isinstance(outcome, Placed):
                self.loads.relief["loans"] += len(outcome.grants)
                if grows:
                    self.growth.on_placed(outcome)
                else:
                    sequence = self.admission.on_placed(outcome)
                    num_copied = self.returns.bring_found(sequence, self.prices)
                    self.loads.reuse["copied"] += num_copied * self._layout.tokens
                    self.running.append(sequence)
                continue
            if grows:
                self.growth.on_not_placed(outcome)
            else:
                self._on_not_placed(outcome, now)
            self._give_surplus()

    def _on_not_placed(self, outcome: NotPlaced, now: float) -> None:
        placing = self.admission.placing
        if placing is not None and placing.is_reused:
            self.roster.forgo(placing)
            return
        self.admission.on_not_placed(outcome, now)
        if placing is None or placing not in self.admission.waiting:
            return
        gave_way = self._preemption.make_way(placing, hopeless=outcome.hopeless)
        if not gave_way and not outcome.hopeless:
            self.growth.lend_for(self.admission.num_missing(placing), self.running, now)

    def _leave(self) -> None:
        """Everything goes to others: requests are sent again there, and find what stays cached."""
        self.is_leaving = True
        for sequence in self.roster.all():
            self.roster.drop(sequence, final=False, keep_own=True, keep_lent=True)
            self.chronicle.note(sequence, "handed_over")
            self.clients.hand_over(sequence.request, sequence.timeline.life())
        self._give_surplus()

    def _give_surplus(self) -> None:
        """Free blocks go back to the pool, but for some that running sequences will soon want.

        Not while one is being placed: they were drawn for it.
        """
        if self.admission.placing or any(one.returning for one in self.roster.all()):
            return
        self.holdings.give_surplus(self._config.grow_blocks if self.running else 0)
