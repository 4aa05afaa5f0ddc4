"""Placement: which instance shall hold which rBlock of a sequence. Pure functions.

Two questions: where the blocks of a sequence that needs memory go (``place``, asked by its owner
when it is short), and what would serve the whole cluster better than now (``advise``, asked by the
planner again and again).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import BorrowOffer, Creditor, Freeze, Load, Move, Settle, StepSample

MIN_WORKING = 2
"""own blocks in which a prompt that goes to others can be computed, in small pieces"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Blocks a sequence wants placed: its leaves ``[0, num_blocks)``, the last one its tail.

    They are those of the prompt; or, when a running sequence grows, some blocks that shall be lent
    (its oldest own leaves will move there) and a tail at home: then ``num_local`` is 1.
    """

    owner: int
    host: str
    num_blocks: int
    num_local: int
    """blocks of the own pool it can have"""
    num_pool: int
    """blocks of the own pool when nobody else uses it"""
    working_blocks: int
    """of these, blocks that pass through on their way to a creditor, if anything is lent; it can do
    with ``MIN_WORKING``"""

    @property
    def num_keepable(self) -> int:
        """Blocks that can stay at home, if anything is lent."""
        return max(self.num_local - min(self.working_blocks, MIN_WORKING), 0)

    @property
    def num_kept(self) -> int:
        """Blocks that stay at home, if others have room for the rest."""
        return max(self.num_local - self.working_blocks, min(self.num_keepable, 1))

    @property
    def num_lacking(self) -> int:
        """Blocks to borrow then, where not all have room at home."""
        return self.num_blocks - self.num_kept


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceView:
    """One instance as the planner last heard of it."""

    creditor: Creditor
    """its pool, with what it would lend"""
    num_blocks: int
    num_free: int
    owed: dict[int, int]
    """debtor -> blocks lent to it"""
    load: Load | None
    """its step's last report; None for a donor, or before the first one"""
    is_draining: bool = False

    @property
    def instance(self) -> int:
        return self.creditor.instance


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterView:
    instances: dict[int, InstanceView]
    block_tokens: int
    round: int
    """grows with each round of planning"""
    advised: dict[tuple[int, int], int]
    """(owner, creditor) -> the last round in which blocks were moved between them"""

    def keys(self, instance: int) -> tuple[int, int]:
        """Keys of the instance's sequences at home, tails with them, and at others.

        The instance must have said what its load is.
        """
        load = self.instances[instance].load
        assert load is not None
        return load.home_blocks * self.block_tokens, load.away_blocks * self.block_tokens


@dataclass(frozen=True, slots=True)
class Advice:
    """A message to an instance's step, or to its pool."""

    instance: int
    message: Move | Settle | Freeze | BorrowOffer


class StepCost(ABC):
    """How long a decode step takes (PAPER 2.4: W(beta) / f(beta) + sum S / g(S))."""

    @abstractmethod
    def seconds(self, num_rows: int, local_keys: int, remote_keys: int, holders: int) -> float:
        """A step of ``num_rows`` sequences over so many keys, at home and at ``holders`` others."""

    @abstractmethod
    def serving_seconds(self, keys: int) -> float:
        """What a creditor's core spends to compute partials over so many keys of others."""

    @abstractmethod
    def learn(self, samples: Sequence[StepSample]) -> None: ...


class Placement(ABC):
    """The same arguments give the same answer; no state, no I/O."""

    @abstractmethod
    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        """The holder of each leaf, by instance number; the last leaf is the owner's.

        Asked first without creditors: a CapacityError then has the planner asked who could lend.
        Gives no creditor more than its ``num_lendable``. Raises CapacityError, with numbers, when
        the need cannot be met by the owner and these creditors.
        """

    def advise(self, view: ClusterView, cost: StepCost) -> list[Advice]:
        """What to move now; at most one round's worth. Nobody is bound to follow."""
        return []
