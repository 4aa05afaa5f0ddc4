"""Debts: the loans this instance has taken and how long it may still use them. No I/O.

Leases are durations: the debtor counts from when it *sent* Renew (or Reserve), the creditor from
when it received it, so the debtor always stops first.
"""

from dataclasses import dataclass

from engine.protocol import Renew, Renewed
from engine.scheduler.effects import ToPool


@dataclass(slots=True)
class _Debt:
    lease_s: float
    ends: float


class Debts:
    """Loans by (instance, loan id)."""

    def __init__(self, drift_margin: float = 0.05) -> None:
        self._drift_margin = drift_margin
        self._debts: dict[tuple[int, int], _Debt] = {}
        self._renew_sent: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def add(self, instance: int, loan: int, *, lease_s: float, asked_at: float) -> None:
        lease_s *= 1 - self._drift_margin
        self._debts[instance, loan] = _Debt(lease_s, asked_at + lease_s)

    def remove(self, instance: int, loan: int) -> None:
        self._debts.pop((instance, loan), None)

    def of(self, instance: int) -> list[int]:
        return sorted(loan for holder, loan in self._debts if holder == instance)

    def tick(self, now: float) -> list[ToPool]:
        """Renewals that are due: after a third of the lease, one round at a time per instance."""
        due = set()
        for (instance, _), debt in self._debts.items():
            half_way = now >= debt.ends - debt.lease_s * 2 / 3
            last = self._renew_sent.get(instance, -float("inf"))
            if half_way and now - last >= debt.lease_s / 6:
                due.add(instance)
        return [self.renew(instance, now) for instance in sorted(due)]

    def renew(self, instance: int, now: float) -> ToPool:
        self._renew_sent[instance] = now
        return ToPool(instance, Renew(self.of(instance)))

    def on_renewed(self, instance: int, message: Renewed) -> set[tuple[int, int]]:
        """Extend what still stands; returns the loans that are gone."""
        sent = self._renew_sent.pop(instance, None)
        if sent is None:
            return set()
        standing = set(message.loans)
        gone = set()
        for (holder, loan), debt in self._debts.items():
            if holder != instance:
                continue
            if loan in standing:
                debt.ends = max(debt.ends, sent + debt.lease_s)
            elif debt.ends - debt.lease_s <= sent:  # it was in that Renew
                gone.add((holder, loan))
        return gone

    def expired(self, now: float) -> set[tuple[int, int]]:
        """Loans that must not be used any more."""
        return {key for key, debt in self._debts.items() if now >= debt.ends}
