"""Loans of one pool: which of its blocks a debtor holds, how far they are written, until when."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from engine.core import Seniority
from engine.errors import Fenced

FIRST: Seniority = (-math.inf, 0.0)
"""the own step's"""


class Debtor(NamedTuple):
    instance: int
    epoch: int


class LoanFenced(Fenced):
    """A table cannot be answered. ``loans`` are those that ended: their data is gone."""

    def __init__(self, reason: str, loans: Sequence[int] = ()) -> None:
        self.loans = tuple(loans)
        super().__init__(reason)


class Slot(Enum):
    OPEN = "open"
    """being written"""
    COMMITTED = "committed"
    """whole and immutable"""
    RELEASED = "released"
    """its block is somebody else's by now; final"""


class Loan:
    """Blocks granted together; its number is never used again."""

    def __init__(
        self,
        number: int,
        *,
        debtor: Debtor,
        reservation: int,
        blocks: Sequence[int],
        generations: Sequence[int],
        granted_at: float = 0.0,
        seniority: Seniority = FIRST,
        pinned: bool = False,
    ) -> None:
        self.number = number
        self.granted_at = granted_at
        self.seniority = seniority
        """of the request behind it"""
        self.pinned = pinned
        """its blocks are cached here and lent for reading; else they are the debtor's to write"""
        self.debtor = debtor
        self.reservation = reservation
        self.blocks = tuple(blocks)
        self.generations = tuple(generations)
        self.lease_s = 0.0
        self.expires = -math.inf
        """set by Loans.extend; from then on the loan has ended"""
        self.version = 0
        """grows whenever a slot is released"""
        self.slots = [Slot.COMMITTED if pinned else Slot.OPEN] * len(self.blocks)
        self.contents = [b""] * len(self.blocks)
        """chain hash of each committed block; empty where unknown"""
        self.filled = [0] * len(self.blocks)
        """bytes written in order from the slot's start"""
        self.num_standing = len(self.blocks)

    @property
    def standing_slots(self) -> list[int]:
        return [index for index, slot in enumerate(self.slots) if slot is not Slot.RELEASED]

    def release(self, slots: Sequence[int]) -> list[int]:
        """Ends these slots; returns those that stood until now."""
        ended = [index for index in dict.fromkeys(slots) if self.slots[index] is not Slot.RELEASED]
        for index in ended:
            self.slots[index] = Slot.RELEASED
        self.num_standing -= len(ended)
        self.version += bool(ended)
        return ended


class Loans:
    """The standing loans, by number and by reservation."""

    def __init__(self) -> None:
        self._loans: dict[int, Loan] = {}
        self._reservations: dict[tuple[Debtor, int], Loan] = {}
        self.standing: dict[int, set[tuple[int, int]]] = {}
        """block -> the slots (loan, index) that stand for it: several when it is pinned"""
        self._last_number = 0
        self.next_expiry = math.inf
        """no loan ends earlier; so looking is cheap while none does"""

    def __iter__(self) -> Iterator[Loan]:
        return iter(self._loans.values())

    def open(
        self,
        debtor: Debtor,
        reservation: int,
        *,
        blocks: Sequence[int],
        generations: Sequence[int],
        granted_at: float = 0.0,
        seniority: Seniority = FIRST,
        pinned: bool = False,
    ) -> Loan:
        """A loan that is over at once unless extended."""
        self._last_number += 1
        loan = Loan(
            self._last_number,
            debtor=debtor,
            reservation=reservation,
            blocks=blocks,
            generations=generations,
            granted_at=granted_at,
            seniority=seniority,
            pinned=pinned,
        )
        self._loans[loan.number] = loan
        self._reservations[debtor, reservation] = loan
        for index, block in enumerate(loan.blocks):
            self.standing.setdefault(block, set()).add((loan.number, index))
        self.next_expiry = loan.expires
        return loan

    def extend(self, loan: Loan, until: float) -> None:
        """The debtor may count on any answer it got, so an expiry never moves closer."""
        loan.expires = max(loan.expires, until)

    def get(self, number: int) -> Loan | None:
        return self._loans.get(number)

    def reserved(self, debtor: Debtor, reservation: int) -> Loan | None:
        return self._reservations.get((debtor, reservation))

    def release(self, loan: Loan, slots: Sequence[int]) -> list[int]:
        """Ends these slots of the loan; returns those that stood until now."""
        ended = loan.release(slots)
        for index in ended:
            of = self.standing[loan.blocks[index]]
            of.remove((loan.number, index))
            if not of:
                del self.standing[loan.blocks[index]]
        return ended

    def close(self, loan: Loan) -> None:
        del self._loans[loan.number]
        del self._reservations[loan.debtor, loan.reservation]

    def overdue(self, now: float) -> list[Loan]:
        """Loans whose lease is over."""
        if now < self.next_expiry:
            return []
        over = [loan for loan in self if loan.expires <= now]
        later = (loan.expires for loan in self if loan.expires > now)
        self.next_expiry = min(later, default=math.inf)
        return over

    def older(self, debtor: Debtor) -> list[Loan]:
        """Loans of earlier epochs of the same instance."""
        return [
            loan
            for loan in self
            if loan.debtor.instance == debtor.instance and loan.debtor.epoch < debtor.epoch
        ]

    def owed(self) -> dict[int, int]:
        """Who owes how many lent blocks, by instance; what is pinned is only read."""
        owed: Counter[int] = Counter()
        for loan in self:
            if not loan.pinned:
                owed[loan.debtor.instance] += loan.num_standing
        return dict(owed)

    def check(self) -> None:
        assert self._loans.keys() == {loan.number for loan in self._reservations.values()}
        slots = {(one.number, index) for one in self for index in one.standing_slots}
        assert {slot for of in self.standing.values() for slot in of} == slots
        assert all(self.standing.values()), "a block is lent to nobody"
        for block, of in self.standing.items():
            assert all(self._loans[number].blocks[index] == block for number, index in of)
        for number, loan in self._loans.items():
            assert number == loan.number <= self._last_number
            assert loan.num_standing == len(loan.standing_slots)
            assert loan.num_standing, f"loan {number} is empty and still open"
            assert loan.expires >= self.next_expiry
            assert len(loan.blocks) == len(loan.slots) == len(loan.filled)
