"""Debts: the loans this instance has taken and how long it may still use them. No I/O.

Leases are durations: the debtor counts from when it *sent* Renew (or Reserve), the creditor from
when it received it, so the debtor always stops first.
"""

import math
from dataclasses import dataclass

from engine.protocol import Renew, Renewed
from engine.scheduler.effects import ToPool


@dataclass(slots=True)
class _Debt:
    lease_s: float
    ends: float
    is_pin: bool

    @property
    def renewal(self) -> float:
        """When it is due."""
        return self.ends - self.lease_s * 2 / 3


class Debts:
    """Loans by (instance, loan id)."""

    def __init__(self, drift_margin: float = 0.05) -> None:
        self._drift_margin = drift_margin
        self._debts: dict[tuple[int, int], _Debt] = {}
        self._next: float | None = None
        """``next_renewal``, unless what it was found by has changed"""
        self._renewing: dict[int, tuple[float, frozenset[int]]] = {}
        """instance -> when the unanswered Renew was sent, and the loans it named"""

    def __len__(self) -> int:
        return len(self._debts)

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._debts

    def is_pin(self, key: tuple[int, int]) -> bool:
        """A loan for reading what its holder has cached: nothing of the holder's room is lent."""
        return self._debts[key].is_pin

    def add(
        self, instance: int, loan: int, *, lease_s: float, asked_at: float, is_pin: bool = False
    ) -> None:
        lease_s *= 1 - self._drift_margin
        self._debts[instance, loan] = _Debt(lease_s, asked_at + lease_s, is_pin)
        self._next = None

    def remove(self, instance: int, loan: int) -> None:
        if self._debts.pop((instance, loan), None):
            self._next = None

    def forget(self, instance: int) -> set[tuple[int, int]]:
        """The channel is gone, and answers with it; returns the loans that are lost."""
        self._renewing.pop(instance, None)
        return {(instance, loan) for loan in self.of(instance)}

    def of(self, instance: int) -> list[int]:
        return sorted(loan for holder, loan in self._debts if holder == instance)

    @property
    def next_renewal(self) -> float:
        """When the first of the leases is due to be renewed: after a third of it."""
        if self._next is None:
            self._next = min((debt.renewal for debt in self._debts.values()), default=math.inf)
        return self._next

    def tick(self, now: float) -> list[ToPool]:
        """Renewals that are due."""
        if now < self.next_renewal:
            return []
        due = {instance for (instance, _), debt in self._debts.items() if now >= debt.renewal}
        return [renewal for instance in sorted(due) for renewal in self.renew(instance, now)]

    def renew(self, instance: int, now: float) -> list[ToPool]:
        """One at a time per instance: its answers carry no number, and an answer that is still to
        come says all that another Renew would ask."""
        loans = self.of(instance)
        if instance in self._renewing or not loans:
            return []
        self._renewing[instance] = (now, frozenset(loans))
        return [ToPool(instance, Renew(loans))]

    def on_renewed(self, instance: int, message: Renewed) -> set[tuple[int, int]]:
        """Extend what still stands; returns the loans that are gone."""
        sent, named = self._renewing.pop(instance, (0.0, frozenset()))
        standing = set(message.loans)
        gone = set()
        for loan in named.intersection(self.of(instance)):
            debt = self._debts[instance, loan]
            if loan in standing:
                self._next = None
                debt.ends = max(debt.ends, sent + debt.lease_s)
            else:
                gone.add((instance, loan))
        return gone

    def expired(self, now: float) -> set[tuple[int, int]]:
        """Loans that must not be used any more."""
        if now < self.next_renewal:  # long before any of them ends
            return set()
        return {key for key, debt in self._debts.items() if now >= debt.ends}
