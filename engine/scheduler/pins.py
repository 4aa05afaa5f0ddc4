"""Pins: before a sequence is placed, find those of its blocks that others have cached. No I/O.

A pool is asked for the sequence's chain hashes when its sketch (memory/sketch.py) says that it is
likely to have the first that is missing at home; what it has is pinned: a loan of slots that are
written already. What nobody has becomes a hole, computed like any other. (DESIGN: a dead owner's
lent blocks are found by the request that is sent again.)
"""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from engine.core import BlockRef
from engine.memory.sketch import may_have
from engine.protocol import Member, Pin, Pinned, Release
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Connect, Effect, ToPool
from engine.scheduler.prices import Prices
from engine.scheduler.sequence import Sequence

WAIT_S = 0.25
"""longest wait for pools to say what they have; then the tokens are computed instead"""
SILENT_S = 3.0
"""who did not answer in that time is not asked for so long, unless it does"""
MAX_POOLS = 3
SURE = 2
"""so many hashes must be likely to be there, or all that there are to look for"""
FIRST_ID = 1 << 40
"""reservations of pins are numbered apart from those of loans"""


@dataclass(slots=True)
class _Search:
    sequence: Sequence
    leaves: list[int]
    asked_at: float
    asked: dict[int, int]
    """reservation -> instance, unanswered"""
    found: dict[int, BlockRef] = field(default_factory=dict)
    loans: dict[tuple[int, int], int] = field(default_factory=dict)


class Pins:
    """One search at a time, for the sequence that is about to be placed."""

    def __init__(
        self,
        *,
        instance: int,
        tokens: int,
        prices: Prices,
        debts: Debts,
        effects: list[Effect],
    ) -> None:
        self._instance = instance
        self._tokens = tokens
        self._prices = prices
        self._debts = debts
        self._effects = effects
        self._holders: list[Member] = []
        """others with cached blocks"""
        self._silent: dict[int, float] = {}
        """who did not answer in time -> until when it is not asked"""
        self._search: _Search | None = None
        self._next_id = FIRST_ID

    @property
    def is_searching(self) -> bool:
        return self._search is not None

    def on_members(self, members: list[Member]) -> None:
        others = [m for m in members if m.pool_address and m.instance != self._instance]
        self._holders = [member for member in others if member.sketch]

    def search(
        self, sequence: Sequence, wanted: Mapping[int, bytes], lease_s: float, now: float
    ) -> bool:
        """Begin to look for these leaves, by their hashes; False when nobody is likely to have so
        many that it pays.
        """
        contents = [*wanted.values()]
        speaking = [one for one in self._holders if self._silent.get(one.instance, now) <= now]
        likely = [(_num_likely(member.sketch or b"", contents), member) for member in speaking]
        likely = [one for one in likely if one[0] and self._prices.is_worth(sequence, one[0])]
        likely.sort(key=lambda one: (-one[0], one[1].instance))
        asked = {}
        for _, member in likely[:MAX_POOLS]:
            self._next_id += 1
            asked[self._next_id] = member.instance
            self._effects.append(Connect(member.instance, member.pool_address))
            self._effects.append(ToPool(member.instance, Pin(self._next_id, contents, lease_s)))
        if asked:
            self._search = _Search(sequence, [*wanted], now, asked)
        return bool(asked)

    def on_pinned(self, instance: int, message: Pinned) -> None:
        self._silent.pop(instance, None)
        search = self._search
        if search is None or message.reservation not in search.asked:
            if message.loan and (instance, message.loan) not in self._debts:
                self._effects.append(ToPool(instance, Release(message.loan)))
            return
        del search.asked[message.reservation]
        if not message.loan:
            return
        lease_s, asked_at = message.lease_s, search.asked_at
        self._debts.add(instance, message.loan, lease_s=lease_s, asked_at=asked_at, is_pin=True)
        refs = [
            BlockRef(instance, block, message.loan, slot, generation)
            for slot, (block, generation) in enumerate(
                zip(message.blocks, message.generations, strict=True)
            )
        ]
        num_used = 0
        doubled = []
        for index, ref in zip(message.found, refs, strict=True):
            leaf = search.leaves[index] if index < len(search.leaves) else None
            if leaf is None or leaf in search.found:
                doubled.append(ref.slot)
            else:
                search.found[leaf] = ref
                num_used += 1
        if num_used:
            search.loans[instance, message.loan] = num_used
            if doubled:
                self._effects.append(ToPool(instance, Release(message.loan, doubled, True)))
        else:
            self._forget(instance, message.loan)

    def on_lost(self, loans: set[tuple[int, int]], instance: int | None = None) -> None:
        """These loans have ended; ``instance`` will not answer."""
        search = self._search
        if search is None:
            return
        search.asked = {number: of for number, of in search.asked.items() if of != instance}
        search.loans = {key: num for key, num in search.loans.items() if key not in loans}
        search.found = {
            leaf: ref for leaf, ref in search.found.items() if (ref.instance, ref.loan) not in loans
        }

    def result(self, now: float) -> Sequence | None:
        """The sequence once its search is over: what was found is in its table, the rest a hole."""
        search = self._search
        if search is None or (search.asked and now < search.asked_at + WAIT_S):
            return None
        self._search = None
        self._silent |= dict.fromkeys(search.asked.values(), now + SILENT_S)
        sequence = search.sequence
        for leaf in [leaf for leaf in search.found if sequence.has(leaf)]:  # at home as well
            ref = search.found.pop(leaf)
            key = ref.instance, ref.loan
            self._effects.append(ToPool(ref.instance, Release(ref.loan, [ref.slot], True)))
            search.loans[key] -= 1
            if not search.loans[key]:
                del search.loans[key]
                self._debts.remove(*key)
        sequence.loans |= search.loans
        sequence.reuse(search.found, self._tokens)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        if self._search is not None and self._search.sequence is sequence:
            for instance, loan in self._search.loans:
                self._forget(instance, loan)
            self._search = None

    def _forget(self, instance: int, loan: int) -> None:
        self._debts.remove(instance, loan)
        self._effects.append(ToPool(instance, Release(loan, [], True)))


def _num_likely(sketch: bytes, contents: Many[bytes]) -> int:
    """How many of the first hashes the pool is likely to have all; 0 where that is not sure."""
    num_likely = num_first = 0
    for number, content in enumerate(contents, 1):
        says = may_have(sketch, content)
        if says is False:
            return num_first if num_likely >= SURE else 0
        if says:
            num_likely, num_first = num_likely + 1, number
    return num_first
