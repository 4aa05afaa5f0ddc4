"""BalancedPlacement: ours. As greedy, with a price on everything that greedy takes for free.

What a new sequence must borrow is spread over its host, since a step waits for the slowest holder.
Remote work may show if more is gained than it costs. A link to another host costs; so does a
creditor that will soon want its memory back, and a sequence that will soon end. What was moved
stays for a while, a small gain moves nothing, and with room at home debts are brought home.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from engine.protocol import Creditor, Settle
from engine.scheduler.base import Advice, ClusterView, InstanceView, Need, StepCost
from engine.scheduler.greedy import Candidate, GreedyPlacement
from engine.scheduler.ledger import room
from engine.scheduler.reports import tokens_of

PIECE = 16
"""blocks of a new sequence that one holder gets at least, if there are so many to lend"""


class BalancedPlacement(GreedyPlacement):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(GreedyPlacement.Config):
        min_gain: float = 0.02
        """share of the debtor's present rate that a move must gain"""
        residence_rounds: int = 10
        """rounds of planning in which a pair is left alone after a move"""
        link_s: float = 0.004
        """what a step pays for a holder on another host"""
        home_free_share: float = 0.25
        """free share of a pool that is left when debts are brought home"""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._prices = config

    def choose(self, need: Need, ranked: Sequence[Creditor], num_blocks: int) -> Sequence[Creditor]:
        """Evenly from those of the own host, or from all where these have too little.

        A step ends with the slowest holder, so none reads more keys than it must; but pieces are
        not so short that their messages take longer.
        """
        near = [creditor for creditor in ranked if creditor.host == need.host]
        able = near if room(near) >= num_blocks else ranked
        most = max((creditor.num_lendable for creditor in able), default=0)
        for share in range(PIECE, most, PIECE):
            if room(able, share) >= num_blocks:
                return [replace(c, num_lendable=min(c.num_lendable, share)) for c in able]
        return able

    def advise(self, view: ClusterView, cost: StepCost) -> list[Advice]:
        advice = super().advise(view, cost)
        busy = {one.instance for one in advice}
        owed: dict[int, list[tuple[int, int]]] = {}
        for creditor, lender in view.instances.items():
            for debtor, num_blocks in lender.owed.items():
                owed.setdefault(debtor, []).append((creditor, num_blocks))
        for one in view.instances.values():
            if one.instance in owed and one.instance not in busy:
                advice += self._bring_home(view, one, sorted(owed[one.instance]))
        return advice

    def gain(self, view: ClusterView, candidate: Candidate, cost: StepCost) -> float:
        debtor, creditor = candidate.debtor, candidate.creditor
        pair = (debtor.instance, creditor.instance)
        since = view.round - view.advised.get(pair, -self._prices.residence_rounds)
        if since < self._prices.residence_rounds:
            return 0.0
        gained = super().gain(view, candidate, cost)
        lender = creditor.load
        wanted = lender.waiting_blocks if lender else 0
        risk = min(1.0, wanted / max(creditor.num_free, 1))
        gained *= (1.0 - risk) * self.lasting(view, debtor, candidate.sequence)
        return gained if gained > self.least_gain(debtor) else 0.0

    def lasting(self, view: ClusterView, debtor: InstanceView, sequence: int) -> float:
        """Who has written much is expected to write as much again, so its move lasts."""
        assert debtor.load is not None
        written, _ = tokens_of(debtor.load, debtor.load.requests[sequence])
        return 0.5 + 0.5 * min(1.0, written / (4 * view.block_tokens))

    def least_gain(self, debtor: InstanceView) -> float:
        assert debtor.load is not None
        rate = debtor.load.num_running / max(debtor.load.step_s, 1e-3)
        return self._prices.min_gain * rate

    def exposed_s(self, candidate: Candidate, local: int, remote: int, cost: StepCost) -> float:
        """The step's time has the wait in it already: only a longer link is left to look at."""
        here, there = candidate.debtor.creditor.host, candidate.creditor.creditor.host
        hidden_s = cost.seconds(0, local, 0, 0)
        return self._prices.link_s - hidden_s if here != there else 0.0

    def _bring_home(
        self, view: ClusterView, one: InstanceView, owed: list[tuple[int, int]]
    ) -> list[Advice]:
        """What it owes (creditor, blocks) fits at home again, and nobody waits for the room."""
        spare = one.num_free - int(self._prices.home_free_share * one.num_blocks)
        if one.load is None or one.load.num_waiting or spare <= 0:
            return []
        for creditor, num_blocks in owed:
            if not num_blocks:
                continue
            last = view.advised.get((one.instance, creditor), -self._prices.residence_rounds)
            if view.round - last >= self._prices.residence_rounds:
                home = Settle(creditor, min(num_blocks, spare), self._prices.settle_s)
                return [Advice(one.instance, home)]
        return []
