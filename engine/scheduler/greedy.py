"""GreedyPlacement: the paper's second version, its Algorithm 1 (PAPER 2.4, 2.5).

Instances with small batches and requests waiting for memory lend blocks of their longest sequence
to instances with free memory, as long as the tokens per second of both together grow and remote
work hides behind local work. The thresholds are ours: the paper gives none.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from engine.protocol import Load, Move
from engine.scheduler.base import Advice, ClusterView, InstanceView, StepCost
from engine.scheduler.ledger import LedgerPlacement

MAX_CREDITORS = 32
"""the roomiest that each debtor looks at: a round's time must not grow with the cluster's square"""
ROUNDING = 1 + 1e-9
"""what a sum of rates may lie above the exact one"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Blocks of one sequence that could move."""

    debtor: InstanceView
    creditor: InstanceView
    sequence: int
    num_blocks: int


class GreedyPlacement(LedgerPlacement):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(LedgerPlacement.Config):
        max_debtor_batch: int = 16
        """an instance with more running sequences gains too little from more"""
        max_creditor_utilisation: float = 0.8
        """used share of a pool that still lends"""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._limits = config

    def advise(self, view: ClusterView, cost: StepCost) -> list[Advice]:
        may_lend = [one for one in view.instances.values() if self._may_lend(one)]
        lenders = _Lenders(view, may_lend, cost)
        advice = []
        for debtor in sorted(view.instances.values(), key=_batch):
            best = self._best_move(view, debtor, lenders, cost)
            if best is None:
                continue
            move = Move(best.sequence, best.num_blocks, best.creditor.creditor)
            advice.append(Advice(debtor.instance, move))
            lenders.lent(best.creditor, best.num_blocks)
        return advice

    def gain(self, view: ClusterView, candidate: Candidate, cost: StepCost) -> float:
        """Tokens per second that both instances gain together; none if remote work would show."""
        debtor, creditor = candidate.debtor, candidate.creditor
        moved = candidate.num_blocks * view.block_tokens
        _, more_keys = _joining(view, debtor, candidate.num_blocks)
        local, remote = view.keys(debtor.instance)
        if self.exposed_s(candidate, local - moved + more_keys, remote + moved, cost) > 0:
            return 0.0
        gained = self.own_gain(view, debtor, candidate.num_blocks, cost)
        if not _is_at_work(creditor):
            return gained
        assert creditor.load is not None
        running = creditor.load.num_running
        lender_s = cost.seconds(running, view.keys(creditor.instance)[0], 0, 0)
        busier_s = lender_s + cost.serving_seconds(moved)
        return gained + running / busier_s - running / lender_s

    def own_gain(
        self, view: ClusterView, debtor: InstanceView, num_blocks: int, cost: StepCost
    ) -> float:
        """Tokens per second that the debtor alone gains: ``gain`` is never more, if that is any."""
        assert debtor.load is not None
        moved = num_blocks * view.block_tokens
        joining, more_keys = _joining(view, debtor, num_blocks)
        local, remote = view.keys(debtor.instance)
        batch = debtor.load.num_running
        now_s = cost.seconds(batch, local, remote, bool(remote))
        then_s = cost.seconds(batch + joining, local - moved + more_keys, remote + moved, 1)
        return (batch + joining) / then_s - batch / now_s

    def lasting(self, view: ClusterView, debtor: InstanceView, sequence: int) -> float:
        """Share of a gain by this sequence's blocks that is believed, whoever lends; at most 1."""
        return 1.0

    def least_gain(self, debtor: InstanceView) -> float:
        """Tokens per second that are no reason for a move; at least 0."""
        return 0.0

    def exposed_s(self, candidate: Candidate, local: int, remote: int, cost: StepCost) -> float:
        """Seconds of remote work that local work does not hide; must be none here."""
        return cost.seconds(0, local, remote, 1) - cost.seconds(0, local, 0, 0)

    def _may_lend(self, one: InstanceView) -> bool:
        used = one.num_blocks - one.num_free
        return (
            not one.is_draining
            and one.creditor.num_lendable > 0
            and used <= self._limits.max_creditor_utilisation * one.num_blocks
        )

    def _best_move(
        self,
        view: ClusterView,
        debtor: InstanceView,
        lenders: "_Lenders",
        cost: StepCost,
    ) -> Candidate | None:
        """The longest sequence's best number of blocks, at the best creditor.

        The most gain, then the fewest blocks, then the lowest number. A candidate that could not do
        better if nothing but the lender's loss had a price is not looked at; the best come early.
        """
        load = debtor.load
        if load is None or debtor.is_draining or not load.num_waiting:
            return None
        if load.num_running >= self._limits.max_debtor_batch:
            return None
        movable = [(of.num_blocks, -one) for one, of in load.requests.items() if of.num_local > 1]
        if not movable:
            return None
        longest = -max(movable)[1]
        num_movable = load.requests[longest].num_local - 1
        known: dict[int, list[_Option]] = {}
        """by the most blocks that a lender has room for"""
        best, best_key = None, (self.least_gain(debtor), 0, 0)
        for creditor in lenders.cheapest:
            if creditor.instance == debtor.instance:
                continue
            running, step_s, rate = lenders.rate(creditor)
            at_most = min(num_movable, creditor.creditor.num_lendable)
            if at_most not in known:
                known[at_most] = self._options(view, debtor, longest, at_most, cost)
            for most, serving_s, lasting, num_blocks in known[at_most]:
                if most * ROUNDING < best_key[0]:
                    break
                if running:
                    most += lasting * (running / (step_s + serving_s) - rate)
                    if most * ROUNDING < best_key[0]:
                        continue
                elif (most, -num_blocks, -creditor.instance) < best_key:
                    continue
                candidate = Candidate(debtor, creditor, longest, num_blocks)
                key = (self.gain(view, candidate, cost), -num_blocks, -creditor.instance)
                if key > best_key:
                    best, best_key = candidate, key
        return best

    def _options(
        self, view: ClusterView, debtor: InstanceView, sequence: int, at_most: int, cost: StepCost
    ) -> "list[_Option]":
        """Numbers of blocks that gain something, what gains most first."""
        found: list[_Option] = []
        lasting = self.lasting(view, debtor, sequence)
        for num_blocks in _counts(at_most):
            gained = lasting * self.own_gain(view, debtor, num_blocks, cost)
            if gained > 0:
                serving_s = cost.serving_seconds(num_blocks * view.block_tokens)
                found.append((gained, serving_s, lasting, num_blocks))
        return sorted(found, reverse=True)


_Option = tuple[float, float, float, int]
"""the lasting part of the debtor's gain, seconds to serve, the share that lasts, blocks"""


class _Lenders:
    """Those who may lend, the roomiest first; kept so while they lend."""

    def __init__(self, view: ClusterView, lenders: Iterable[InstanceView], cost: StepCost) -> None:
        self._view = view
        self._cost = cost
        self._lenders = sorted(lenders, key=_room)
        self._rates: dict[int, tuple[int, float, float]] = {}

    def rate(self, lender: InstanceView) -> tuple[int, float, float]:
        """Its running sequences, seconds of its step, and tokens per second; added up once."""
        known = self._rates.get(lender.instance)
        if known is None:
            known = (0, 0.0, 0.0)
            if lender.load is not None and lender.load.num_running:
                running, keys = lender.load.num_running, self._view.keys(lender.instance)[0]
                step_s = self._cost.seconds(running, keys, 0, 0)
                known = (running, step_s, running / step_s)
            self._rates[lender.instance] = known
        return known

    @property
    def cheapest(self) -> list[InstanceView]:
        """The roomiest; about those first who lose the least when they serve."""

        def loss(lender: InstanceView) -> tuple[float, int]:
            running, step_s, rate = self.rate(lender)
            return (rate / step_s if running else 0.0, lender.instance)

        return sorted(self._lenders[:MAX_CREDITORS], key=loss)

    def lent(self, lender: InstanceView, num_blocks: int) -> None:
        at, to = bisect_left(self._lenders, _room(lender), key=_room), lender.creditor
        left = to.num_lendable - num_blocks
        less = replace(
            lender,
            creditor=type(to)(to.instance, to.epoch, to.address, to.host, left, to.num_cached),
            num_free=lender.num_free - num_blocks,
        )
        del self._lenders[at]
        insort(self._lenders, less, key=_room)


def _room(one: InstanceView) -> tuple[int, int]:
    return (-one.creditor.num_lendable, one.instance)


def _is_at_work(one: InstanceView) -> bool:
    """It has sequences that serving others slows down."""
    return one.load is not None and one.load.num_running > 0


def _joining(view: ClusterView, debtor: InstanceView, num_blocks: int) -> tuple[int, int]:
    """Waiting requests that so many freed blocks let in, and the keys they bring."""
    assert debtor.load is not None
    joining = min(debtor.load.num_waiting, _admitted(debtor.load, num_blocks))
    return joining, joining * _waiting_blocks(debtor.load) * view.block_tokens


def _admitted(load: Load, num_blocks: int) -> int:
    """Waiting requests that the freed blocks would let in."""
    return int(num_blocks // max(_waiting_blocks(load), 1))


def _waiting_blocks(load: Load) -> int:
    return -(-load.waiting_blocks // load.num_waiting) if load.num_waiting else 0


@lru_cache(maxsize=4096)
def _counts(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most that is possible."""
    counts = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*counts, most) if most > 0 else ()


def _batch(one: InstanceView) -> tuple[int, int]:
    return (one.load.num_running if one.load else 0, one.instance)
