"""Recalls: lent slots called back, for the pool's own step or for a more urgent or older request.

The debtor has ``recall_s`` to bring its data elsewhere; then the slots end whatever it does, so the
lender never waits longer. A loan stays for a while before it can be called back, and no debtor has
two rounds of recalls for others at once: both keep blocks from travelling back and forth. The own
step does not wait for a round to end. A block that several have pinned comes back with its last
slot. No I/O.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.core import Seniority
from engine.memory.loans import FIRST, Debtor, Loan, Loans, Slot

MARGIN = 1.5
"""of ``recall_s``: how long blocks are kept for who called them back"""


@dataclass(slots=True)
class _Claim:
    num_blocks: int
    seniority: Seniority
    until: float


class Recalls:
    """What is called back, and for whom freed blocks are kept."""

    def __init__(
        self, *, loans: Loans, held: Collection[int], recall_s: float, min_residence_s: float
    ) -> None:
        """``held``: blocks that the own step uses itself; nothing comes of calling them back."""
        self._loans = loans
        self._held = held
        self._recall_s = recall_s
        self._min_residence_s = min_residence_s
        self._pending: dict[tuple[int, int], float] = {}
        """(loan, slot) -> when it ends if it is not back"""
        self._own = _Claim(0, FIRST, 0.0)
        self._frozen = _Claim(0, FIRST, 0.0)
        self._claims: dict[Debtor, _Claim] = {}

    @property
    def is_waiting(self) -> bool:
        """Something was called back and has not come yet."""
        return bool(self._pending)

    @property
    def state(self) -> list[Any]:
        """To be compared with another's."""
        claims = [self._own, self._frozen, list(self._claims.items())]
        return [list(self._pending.items()), claims]

    @property
    def longest_s(self) -> float:
        """From the wish to the end of what was called back, residence included."""
        return self._recall_s + self._min_residence_s

    def want(self, num_blocks: int, now: float) -> tuple[int, dict[Loan, list[int]]]:
        """The own step misses so many blocks: how many will come, and what to call back now."""
        self._own = _Claim(num_blocks, FIRST, now + MARGIN * self.longest_s)
        if not num_blocks:
            return 0, {}
        return min(num_blocks, self._num_lent), self.go_on(0, now)

    def drew(self, num_blocks: int) -> None:
        """The own step has got so many of those it misses."""
        self._own.num_blocks = max(0, self._own.num_blocks - num_blocks)

    def is_wanted(self, now: float) -> bool:
        """The own step misses blocks, or they have come and are kept for it."""
        return self._own.num_blocks > 0 and now < self._own.until

    def go_on(self, num_free: int, now: float) -> dict[Loan, list[int]]:
        """What the own step still misses and could not be called back before."""
        if not self.is_wanted(now) or self._own.num_blocks <= num_free:
            return {}
        return self._choose(self._own.num_blocks - num_free, self._loans, now, for_own=True)

    def claim(
        self, debtor: Debtor, num_blocks: int, seniority: Seniority, now: float
    ) -> dict[Loan, list[int]]:
        """An earlier request finds too little: call back from later ones, keep it for a while."""
        others = [loan for loan in self._loans if loan.debtor != debtor]
        later = [loan for loan in others if loan.seniority > seniority]
        if sum(loan.num_standing for loan in later) < num_blocks:
            return {}
        self._claims[debtor] = _Claim(num_blocks, seniority, now + MARGIN * self.longest_s)
        return self._choose(num_blocks, later, now)

    def granted(self, debtor: Debtor) -> None:
        self._claims.pop(debtor, None)

    def freeze(self, num_blocks: int, for_s: float, now: float) -> None:
        """So many blocks are for the own step only, for so long."""
        self._frozen = _Claim(num_blocks, FIRST, now + for_s)

    def num_kept(
        self, now: float, debtor: Debtor | None = None, seniority: Seniority = FIRST
    ) -> int:
        """Free blocks that are not for this debtor's request: others called them back."""
        kept = 0
        for claim in (self._own, self._frozen):
            kept += claim.num_blocks if now < claim.until else 0
        for of, claim in self._claims.items():
            if of != debtor and claim.seniority <= seniority and now < claim.until:
                kept += claim.num_blocks
        return kept

    def next_due(self, now: float) -> float:
        """From when on something did not come back in time, or may be called back."""
        if self.is_wanted(now):
            return now
        return min(self._pending.values(), default=math.inf)

    def overdue(self, now: float) -> list[tuple[Loan, int]]:
        """Slots that did not come back in time."""
        if not self._pending:
            return []
        late = [key for key, ends in self._pending.items() if ends <= now]
        found = []
        for key in late:
            del self._pending[key]
            loan = self._loans.get(key[0])
            if loan is not None and loan.slots[key[1]] is not Slot.RELEASED:
                found.append((loan, key[1]))
        return found

    def ended(self, loan: Loan, slots: Iterable[int]) -> None:
        """These slots are back."""
        for slot in slots:
            self._pending.pop((loan.number, slot), None)

    def _choose(
        self, num_blocks: int, loans: Iterable[Loan], now: float, *, for_own: bool = False
    ) -> dict[Loan, list[int]]:
        """Slots of the last requests first, until so many blocks are called back in all."""
        at_it = set() if for_own else {self._debtor(number) for number, _ in self._pending}
        under_way = Counter(number for number, _ in self._pending)
        left = [
            loan
            for loan in loans
            if under_way[loan.number] < loan.num_standing
            and loan.debtor not in at_it
            and loan.granted_at + self._min_residence_s <= now
        ]
        missing = num_blocks - self._num_coming() if left else 0
        if missing <= 0:
            return {}
        left.sort(key=lambda one: (one.seniority, one.number), reverse=True)
        may = {loan.number: loan for loan in left}
        chosen: dict[Loan, list[int]] = {}
        for slots in islice(self._callable(may), missing):
            for number, slot in slots:
                self._pending[number, slot] = now + self._recall_s
                chosen.setdefault(may[number], []).append(slot)
        return {loan: sorted(slots) for loan, slots in chosen.items()}

    def _callable(self, may: Mapping[int, Loan]) -> Iterator[list[tuple[int, int]]]:
        """For one block after the other of these loans, the slots that must come back for it."""
        for loan in may.values():
            for slot in reversed(loan.standing_slots):
                block = loan.blocks[slot]
                of = self._loans.standing[block]
                missing = sorted(key for key in of if key not in self._pending)
                is_ours = block in self._held
                if missing and not is_ours and all(number in may for number, _ in missing):
                    yield missing

    @property
    def _num_lent(self) -> int:
        """Blocks that others have and the own step does not."""
        standing = self._loans.standing
        return len(standing) - sum(block in standing for block in self._held)

    def _num_coming(self) -> int:
        """Of these, blocks that are called back from all who have them."""
        found = ((self._loans.get(number), slot) for number, slot in self._pending)
        blocks = {loan.blocks[slot] for loan, slot in found if loan is not None}
        standing, pending = self._loans.standing, self._pending.keys()
        return sum(block not in self._held and pending >= standing[block] for block in blocks)

    def _debtor(self, number: int) -> Debtor | None:
        loan = self._loans.get(number)
        return loan.debtor if loan else None

    def check(self) -> None:
        for number, slot in self._pending:
            loan = self._loans.get(number)
            assert loan is not None, "a loan that ended is still called back"
            assert loan.slots[slot] is not Slot.RELEASED, "a slot that is back is still called back"
