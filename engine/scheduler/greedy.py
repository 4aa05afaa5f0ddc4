"""GreedyPlacement: the paper's second version, its Algorithm 1 (PAPER 2.4, 2.5).

Instances with small batches and requests waiting for memory lend blocks of their longest sequence
to instances with free memory, as long as the tokens per second of both together grow and remote
work hides behind local work. The thresholds are ours: the paper gives none.
"""

from dataclasses import dataclass, replace

from engine.protocol import Load, Move, SequenceLoad
from engine.scheduler.base import Advice, ClusterView, InstanceView, StepCost
from engine.scheduler.ledger import LedgerPlacement


@dataclass(frozen=True, slots=True)
class Candidate:
    """Blocks of one sequence that could move."""

    debtor: InstanceView
    creditor: InstanceView
    sequence: SequenceLoad
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
        creditors = {one.instance: one for one in view.instances.values() if self._may_lend(one)}
        advice = []
        for debtor in sorted(view.instances.values(), key=_batch):
            best = self._best_move(view, debtor, list(creditors.values()), cost)
            if best is None:
                continue
            to = best.creditor.creditor
            move = Move(best.sequence.sequence, best.num_blocks, to)
            advice.append(Advice(debtor.instance, move))
            left = to.num_lendable - best.num_blocks
            lender = replace(
                best.creditor,
                creditor=type(to)(to.instance, to.epoch, to.address, to.host, left, to.num_cached),
                num_free=best.creditor.num_free - best.num_blocks,
            )
            creditors[to.instance] = lender
        return advice

    def gain(self, view: ClusterView, candidate: Candidate, cost: StepCost) -> float:
        """Tokens per second that both instances gain together; none if remote work would show."""
        debtor, creditor = candidate.debtor.load, candidate.creditor.load
        assert debtor is not None
        tokens = view.block_tokens
        moved = candidate.num_blocks * tokens
        joining = min(debtor.num_waiting, _admitted(debtor, candidate.num_blocks))
        more_keys = joining * _waiting_blocks(debtor) * tokens
        local, remote = local_keys(debtor, tokens), remote_keys(debtor, tokens)
        if self.exposed_s(candidate, local - moved + more_keys, remote + moved, cost) > 0:
            return 0.0
        batch = debtor.num_running
        now_s = cost.seconds(batch, local, remote, bool(remote))
        then_s = cost.seconds(batch + joining, local - moved + more_keys, remote + moved, 1)
        gained = (batch + joining) / then_s - batch / now_s
        if creditor is None or not creditor.num_running:
            return gained
        lender_s = cost.seconds(creditor.num_running, local_keys(creditor, tokens), 0, 0)
        busier_s = lender_s + cost.serving_seconds(moved)
        return gained + creditor.num_running / busier_s - creditor.num_running / lender_s

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
        creditors: list[InstanceView],
        cost: StepCost,
    ) -> Candidate | None:
        """The longest sequence's best number of blocks, at the best creditor."""
        load = debtor.load
        if load is None or debtor.is_draining or not load.num_waiting:
            return None
        if load.num_running >= self._limits.max_debtor_batch:
            return None
        movable = [one for one in load.sequences if one.num_local > 1]
        if not movable:
            return None
        longest = max(movable, key=lambda one: (one.num_blocks, -one.sequence))
        candidates = [
            Candidate(debtor, creditor, longest, num_blocks)
            for creditor in creditors
            if creditor.instance != debtor.instance
            for num_blocks in _counts(min(longest.num_local - 1, creditor.creditor.num_lendable))
        ]
        best = max(
            candidates,
            key=lambda one: (self.gain(view, one, cost), -one.num_blocks, -one.creditor.instance),
            default=None,
        )
        return best if best is not None and self.gain(view, best, cost) > 0 else None


def local_keys(load: Load, tokens: int) -> int:
    """Keys of all sequences in the own pool; the tail counts with them."""
    return sum((one.num_local + 1) * tokens for one in load.sequences)


def remote_keys(load: Load, tokens: int) -> int:
    return sum(max(0, one.num_blocks - one.num_local - 1) * tokens for one in load.sequences)


def _admitted(load: Load, num_blocks: int) -> int:
    """Waiting requests that the freed blocks would let in."""
    return int(num_blocks // max(_waiting_blocks(load), 1))


def _waiting_blocks(load: Load) -> int:
    return -(-load.waiting_blocks // load.num_waiting) if load.num_waiting else 0


def _counts(most: int) -> list[int]:
    """1, 2, 4, ... and the most that is possible."""
    counts = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*counts, most] if most > 0 else []


def _batch(one: InstanceView) -> tuple[int, int]:
    return (one.load.num_running if one.load else 0, one.instance)
