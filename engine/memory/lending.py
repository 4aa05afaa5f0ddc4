"""What a pool lends, to whom, until when. First come, first served; the lender comes first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Protocol

from engine.core import BlockLayout, Seniority
from engine.memory.books import BlockState, Books
from engine.memory.effects import Output, Violation, Zero
from engine.memory.loans import FIRST, Debtor, Loan, Loans, Slot
from engine.memory.recalls import Recalls
from engine.protocol import Granted, Pin, Pinned, Refused, Reserve


class Memory(Protocol):
    """What the books need of a MemoryPool; a simulation has no bytes behind it."""

    layout: BlockLayout
    num_blocks: int

    def generation(self, block: int) -> int: ...
    def bump(self, block: int) -> None: ...


class Lending:
    """Loans of a pool together with their blocks in its books."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        lend_fraction: float = 0.9
        """at most this share of the pool is lent"""
        keep_blocks: int = 4
        """free blocks that are never lent"""
        max_lease_s: float = 60.0
        drift: float = 0.05
        """how much slower a debtor's clock may run; leases last this share longer here"""
        zero_on_return: bool = False
        """overwrite blocks that a debtor gave back"""
        recall_s: float = 2.0
        """how long a debtor may take to give back what the own step wants"""
        min_residence_s: float = 0.5
        """a loan is not called back before"""
        host_blocks: int = 0
        """blocks added to the pool that are never lent: the own step's last resort"""
        checksums: bool = False
        """check the CRC-32 of each block that is written here, and again before it is used"""

        def __post_init__(self) -> None:
            if not (0 <= self.lend_fraction <= 1 and self.keep_blocks >= 0):
                raise ValueError("lend_fraction is a share of 1, and keep_blocks a count")
            if not (self.max_lease_s > 0 and self.drift >= 0):
                raise ValueError("max_lease_s must be above 0, and drift not below it")
            if min(self.recall_s, self.min_residence_s, self.host_blocks) < 0:
                raise ValueError("recall_s, min_residence_s and host_blocks must not be below 0")

    def __init__(self, config: Config, *, pool: Memory, books: Books) -> None:
        self.config = config
        self.loans = Loans()
        self._held: set[int] = set()
        """cached blocks that the own step uses; each is pinned once for it"""
        self.recalls = Recalls(
            loans=self.loans,
            held=self._held,
            recall_s=config.recall_s,
            min_residence_s=config.min_residence_s,
        )
        self._pool = pool
        self._books = books
        self.is_on = True  # else nobody gets anything new

    @property
    def num_lend_cap(self) -> int:
        """Most blocks this pool would ever lend; its step keeps what it stages copies in."""
        num_blocks = self._books.num_blocks - self.config.host_blocks
        share = int(self.config.lend_fraction * num_blocks) if self.is_on else 0
        kept = self.config.keep_blocks + self._books.count(BlockState.STAGING)
        return max(0, min(share, num_blocks - kept))

    def num_lendable(
        self, now: float, debtor: Debtor | None = None, seniority: Seniority = FIRST
    ) -> int:
        """Blocks it would lend now, to this debtor's request."""
        num_lent = self._books.count(BlockState.LENT)
        kept = self.config.keep_blocks + self.recalls.num_kept(now, debtor, seniority)
        free = self._books.num_first_available - kept
        return max(0, min(self.num_lend_cap - num_lent, free))

    def num_drawable(self, *, host: bool) -> int:
        """Blocks the own step may draw; its host memory only as the last resort."""
        return self._books.num_available if host else self._books.num_first_available

    @property
    def num_used(self) -> int:
        """Blocks that the own step has."""
        return sum(map(self._books.count, (BlockState.USED, BlockState.STAGING))) + len(self._held)

    def find(self, debtor: Debtor, number: int) -> Loan | None:
        """The debtor's loan, None when it has ended."""
        loan = self.loans.get(number)
        if loan and loan.debtor != debtor:
            raise Violation(f"loan {number} is of instance {loan.debtor.instance}")
        return loan

    def reserve(
        self, debtor: Debtor, wanted: Reserve, now: float
    ) -> tuple[Granted | Refused, dict[Loan, list[int]]]:
        """All blocks or none, and what is called back so that the next try succeeds.

        The same reservation again gives the same loan again.
        """
        if not wanted.num_blocks:
            raise Violation("a reservation of no blocks")
        lease_s = min(wanted.lease_s, self.config.max_lease_s)
        seniority = (wanted.priority, now - wanted.age_s)
        loan = self.loans.reserved(debtor, wanted.reservation)
        if loan is None:
            lendable = self.num_lendable(now, debtor, seniority)
            if wanted.num_blocks > lendable:
                recalled = self.recalls.claim(debtor, wanted.num_blocks - lendable, seniority, now)
                return Refused(wanted.reservation, lendable), recalled
            self.recalls.granted(debtor)
            blocks = self.take(wanted.num_blocks, BlockState.LENT)
            loan = self.loans.open(
                debtor,
                wanted.reservation,
                blocks=blocks,
                generations=[self._pool.generation(block) for block in blocks],
                granted_at=now,
                seniority=seniority,
            )
        elif loan.pinned or wanted.num_blocks != len(loan.blocks) or loan.version:
            raise Violation(f"reservation {wanted.reservation} was used for loan {loan.number}")
        self.extend(loan, lease_s, now)
        granted = Granted(
            wanted.reservation, loan.number, list(loan.blocks), list(loan.generations), lease_s
        )
        return granted, {}

    def pin(self, debtor: Debtor, wanted: Pin, now: float) -> Pinned:
        """A loan, for reading, of the contents that are cached here.

        None while the own step waits for blocks, and no idle ones that are kept for somebody else.
        """
        lease_s = min(wanted.lease_s, self.config.max_lease_s)
        loan = self.loans.reserved(debtor, wanted.reservation)
        if loan is not None and not loan.pinned:
            raise Violation(f"reservation {wanted.reservation} was used for loan {loan.number}")
        if loan is None:
            found = self._pinnable(debtor, wanted.contents, now)
            if not found:
                return Pinned(wanted.reservation, 0, [], [], [], 0.0)
            for block in found.values():
                self._books.pin(block)
            loan = self.loans.open(
                debtor,
                wanted.reservation,
                blocks=list(found.values()),
                generations=[self._pool.generation(block) for block in found.values()],
                granted_at=now,
                seniority=(0, now),
                pinned=True,
            )
            loan.contents = [wanted.contents[index] for index in found]
        elif loan.version:
            raise Violation(f"reservation {wanted.reservation} was used for loan {loan.number}")
        self.extend(loan, lease_s, now)
        at = {content: index for index, content in reversed(list(enumerate(wanted.contents)))}
        return Pinned(
            wanted.reservation,
            loan.number,
            [at[content] for content in loan.contents],
            list(loan.blocks),
            list(loan.generations),
            lease_s,
        )

    def renew(self, debtor: Debtor, numbers: Sequence[int], now: float) -> list[int]:
        """Another lease for those of these loans that stand; returns them."""
        own = [loan for number in numbers if (loan := self.loans.get(number))]
        standing = [loan for loan in own if loan.debtor == debtor]
        for loan in standing:
            self.extend(loan, loan.lease_s, now)
        return [loan.number for loan in standing]

    def release(
        self, loan: Loan, slots: Sequence[int], *, keep: bool = False
    ) -> tuple[list[int], list[Output]]:
        """Slots end; returns those that stood until now. With its last slot a loan ends.

        ``keep``: what is committed and has a chain hash stays here for whoever pins it.
        """
        committed = {slot for slot in slots if loan.slots[slot] is Slot.COMMITTED}
        ended = self.loans.release(loan, slots)
        self.recalls.ended(loan, ended)
        zeroed = []
        for slot in reversed(ended):  # what is cached first goes first, and no head before its tail
            block, content = loan.blocks[slot], loan.contents[slot]
            if loan.pinned:
                self._books.unpin(block)
            elif not (keep and slot in committed and content):
                self.free([block])
                zeroed.append(block)
            elif not self._books.cache(block, content):
                self._pool.bump(block)
        if not loan.num_standing:
            self.loans.close(loan)
        return ended, [Zero(block) for block in zeroed] if self.config.zero_on_return else []

    def end(self, loans: Sequence[Loan]) -> list[Output]:
        """The debtor is gone or too late: what it wrote stays cached."""
        return [
            out for loan in loans for out in self.release(loan, loan.standing_slots, keep=True)[1]
        ]

    def recover(self, contents: Sequence[bytes]) -> dict[int, int]:
        """Index -> block of those contents that are cached and that the own step does not use yet.

        It uses them from now on; they stay cached, and others may pin them too.
        """
        found = {}
        for index, content in enumerate(contents):
            block = self._books.find(content)
            if block is not None and block not in self._held:
                self._books.pin(block)
                self._held.add(block)
                found[index] = block
        return found

    def is_given(self, block: int) -> bool:
        """Whether the own step has this block, to use or for copies."""
        drawn = (BlockState.USED, BlockState.STAGING)
        return block in self._held or self._books.state(block) in drawn

    def give(self, blocks: Sequence[int], contents: Sequence[bytes]) -> None:
        """The own step returns blocks; those with a content stay cached."""
        free = []
        for block, content in zip(blocks, chain(contents, repeat(b"")), strict=False):
            if block in self._held:
                self._held.discard(block)
                self._books.unpin(block)
            elif not content:
                free.append(block)
            elif not self._books.cache(block, content):
                self._books.evicted.append(content)
                self._pool.bump(block)
        self.free(free)

    def take_back(self) -> None:
        """The own step is dead: what it had is free, or cached."""
        for state in (BlockState.USED, BlockState.STAGING):
            self.free(self._books.blocks(state))
        self.give(list(self._held), [])

    def take(self, num_blocks: int, state: BlockState) -> list[int]:
        """Blocks for a new holder: nobody may read them as what they were."""
        blocks = self._books.take(num_blocks, state)
        for block in blocks:
            self._pool.bump(block)
        return blocks

    def free(self, blocks: Sequence[int]) -> None:
        """Blocks come back; nobody may read them from now on."""
        self._books.free(blocks)
        for block in blocks:
            self._pool.bump(block)

    def _pinnable(self, debtor: Debtor, contents: Sequence[bytes], now: float) -> dict[int, int]:
        """Index of a content -> its block, for those that may be pinned."""
        if not self.is_on or self.recalls.is_wanted(now):
            return {}
        spare = self._books.num_available - self.recalls.num_kept(now, debtor, (0, now))
        there = ((index, self._books.find(of)) for index, of in enumerate(contents))
        found = {index: block for index, block in there if block is not None}
        idle = [block for block in dict.fromkeys(found.values()) if self._books.is_idle(block)]
        kept = set(idle[max(0, spare) :])
        return {index: block for index, block in found.items() if block not in kept}

    def check(self) -> None:
        self.loans.check()
        self.recalls.check()
        self._check_pins()
        ours = [loan for loan in self.loans if not loan.pinned]
        lent = [loan.blocks[slot] for loan in ours for slot in loan.standing_slots]
        assert sorted(lent) == self._books.blocks(BlockState.LENT), "loans and books disagree"
        for loan in self.loans:
            for slot in loan.standing_slots:
                there = self._pool.generation(loan.blocks[slot])
                assert there == loan.generations[slot], "a lent block was handed on"

    def _check_pins(self) -> None:
        pins = Counter(self._held)
        for loan in self.loans:
            pins.update(loan.blocks[slot] for slot in loan.standing_slots if loan.pinned)
        assert pins == self._books.pins, "pins and books disagree"

    def extend(self, loan: Loan, lease_s: float, now: float) -> None:
        loan.lease_s = lease_s
        self.loans.extend(loan, now + lease_s * (1 + self.config.drift))
