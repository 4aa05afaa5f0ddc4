"""Placement: which instance shall hold which rBlock of a sequence. Pure functions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import Creditor


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
    """of these, blocks that pass through on their way to a creditor, if anything is lent"""


class Placement(ABC):
    """The same arguments give the same answer; no state, no I/O."""

    @abstractmethod
    def place(self, need: Need, creditors: Sequence[Creditor]) -> tuple[int, ...]:
        """The holder of each leaf, by instance number; the last leaf is the owner's.

        Asked first without creditors: a CapacityError then has the planner asked who could lend.
        Gives no creditor more than its ``num_lendable``. Raises CapacityError, with numbers, when
        the need cannot be met by the owner and these creditors.
        """
