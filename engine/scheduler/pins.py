"""Pins: before a sequence is placed, find those of its blocks that others have cached. No I/O.

A pool that says it has cached blocks is asked for the sequence's chain hashes; what it has is
pinned: a loan of slots that are written already. What nobody has becomes a hole, computed like any
other. (DESIGN: a dead owner's lent blocks are found by the request that is sent again.)
"""

from dataclasses import dataclass, field

from engine.core import BlockRef
from engine.memory.blocks import ROOT, chain_hash
from engine.protocol import Member, Pin, Pinned, Release
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Connect, Effect, ToPool
from engine.scheduler.sequence import NOWHERE, Sequence

WAIT_S = 0.25
"""longest wait for pools to say what they have; then the tokens are computed instead"""
MAX_POOLS = 8
FIRST_ID = 1 << 40
"""reservations of pins are numbered apart from those of loans"""


@dataclass(slots=True)
class _Search:
    sequence: Sequence
    contents: list[bytes]
    asked_at: float
    asked: dict[int, int]
    """reservation -> instance, unanswered"""
    found: dict[int, BlockRef] = field(default_factory=dict)
    loans: dict[tuple[int, int], int] = field(default_factory=dict)


class Pins:
    """One search at a time, for the sequence that is about to be placed."""

    def __init__(
        self, *, instance: int, tokens: int, salt: bytes, debts: Debts, effects: list[Effect]
    ) -> None:
        self._instance = instance
        self._tokens = tokens
        self._salt = salt
        self._debts = debts
        self._effects = effects
        self._holders: dict[int, str] = {}
        """instances with cached blocks, the fullest first -> address"""
        self._search: _Search | None = None
        self._next_id = FIRST_ID

    @property
    def is_searching(self) -> bool:
        return self._search is not None

    def on_members(self, members: list[Member]) -> None:
        others = [m for m in members if m.pool_address and m.instance != self._instance]
        have = [member for member in others if member.num_cached]
        have.sort(key=lambda member: (-member.num_cached, member.instance))
        self._holders = {m.instance: m.pool_address for m in have[:MAX_POOLS]}

    def search(self, sequence: Sequence, lease_s: float, now: float) -> bool:
        """Begin; False when there is nothing to look for, or nobody to ask."""
        # The last token's keys are computed in any case: its row gives the next token.
        num_leaves = (len(sequence.token_ids) - 1) // self._tokens
        wants_all_rows = sequence.request.sampling.prompt_logprobs is not None
        if not self._holders or not num_leaves or wants_all_rows:
            return False
        contents: list[bytes] = []
        for leaf in range(num_leaves):
            chunk = sequence.token_ids[leaf * self._tokens : (leaf + 1) * self._tokens]
            contents.append(chain_hash(contents[-1] if contents else ROOT, chunk, self._salt))
        asked = {}
        for instance, address in self._holders.items():
            self._next_id += 1
            asked[self._next_id] = instance
            self._effects.append(Connect(instance, address))
            self._effects.append(ToPool(instance, Pin(self._next_id, contents, lease_s)))
        self._search = _Search(sequence, contents, now, asked)
        return True

    def on_pinned(self, instance: int, message: Pinned) -> None:
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
        for leaf, ref in zip(message.found, refs, strict=True):
            if leaf in search.found or leaf >= len(search.contents):
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
        sequence, found = search.sequence, search.found
        if found:
            num_leaves = max(found) + 1
            sequence.table = [found.get(leaf, NOWHERE) for leaf in range(num_leaves)]
            sequence.table_version += 1
            sequence.hashes = search.contents[:num_leaves]
            sequence.loans = search.loans
            sequence.num_computed = num_leaves * self._tokens
            sequence.open_holes(set(range(num_leaves)) - found.keys(), self._tokens)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        if self._search is not None and self._search.sequence is sequence:
            for instance, loan in self._search.loans:
                self._forget(instance, loan)
            self._search = None

    def _forget(self, instance: int, loan: int) -> None:
        self._debts.remove(instance, loan)
        self._effects.append(ToPool(instance, Release(loan, [], True)))
