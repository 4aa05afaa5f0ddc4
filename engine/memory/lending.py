"""What a pool lends, to whom, until when. First come, first served; the lender comes first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.core import BlockLayout
from engine.memory.books import BlockState, Books
from engine.memory.effects import Output, Violation, Zero
from engine.memory.loans import Debtor, Loan, Loans
from engine.protocol import Granted, Refused, Reserve


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
        checksums: bool = False
        """check the CRC-32 of each block that is written here, and again before it is used"""

        def __post_init__(self) -> None:
            if not (0 <= self.lend_fraction <= 1 and self.keep_blocks >= 0):
                raise ValueError("lend_fraction is a share of 1, and keep_blocks a count")
            if not (self.max_lease_s > 0 and self.drift >= 0):
                raise ValueError("max_lease_s must be above 0, and drift not below it")

    def __init__(self, config: Config, *, pool: Memory, books: Books) -> None:
        self.config = config
        self.loans = Loans()
        self._pool = pool
        self._books = books

    @property
    def num_lend_cap(self) -> int:
        """Most blocks this pool would ever lend; its step keeps what it stages copies in."""
        num_blocks = self._books.num_blocks
        share = int(self.config.lend_fraction * num_blocks)
        kept = self.config.keep_blocks + self._books.count(BlockState.STAGING)
        return max(0, min(share, num_blocks - kept))

    @property
    def num_lendable(self) -> int:
        """Blocks it would lend now."""
        room = self.num_lend_cap - self._books.count(BlockState.LENT)
        return max(0, min(room, self._books.num_available - self.config.keep_blocks))

    def find(self, debtor: Debtor, number: int) -> Loan | None:
        """The debtor's loan, None when it has ended."""
        loan = self.loans.get(number)
        if loan and loan.debtor != debtor:
            raise Violation(f"loan {number} is of instance {loan.debtor.instance}")
        return loan

    def reserve(self, debtor: Debtor, wanted: Reserve, now: float) -> Granted | Refused:
        """All blocks or none. The same reservation again gives the same loan again."""
        if not wanted.num_blocks:
            raise Violation("a reservation of no blocks")
        lease_s = min(wanted.lease_s, self.config.max_lease_s)
        loan = self.loans.reserved(debtor, wanted.reservation)
        if loan is None:
            if wanted.num_blocks > self.num_lendable:
                return Refused(wanted.reservation, self.num_lendable)
            blocks = self.take(wanted.num_blocks, BlockState.LENT)
            generations = [self._pool.generation(block) for block in blocks]
            loan = self.loans.open(
                debtor, wanted.reservation, blocks=blocks, generations=generations
            )
        elif wanted.num_blocks != len(loan.blocks) or loan.version:
            raise Violation(f"reservation {wanted.reservation} was used for loan {loan.number}")
        loan.lease_s = lease_s
        self._extend(loan, now)
        return Granted(
            wanted.reservation, loan.number, list(loan.blocks), list(loan.generations), lease_s
        )

    def renew(self, debtor: Debtor, numbers: Sequence[int], now: float) -> list[int]:
        """Another lease for those of these loans that stand; returns them."""
        own = [loan for number in numbers if (loan := self.loans.get(number))]
        standing = [loan for loan in own if loan.debtor == debtor]
        for loan in standing:
            self._extend(loan, now)
        return [loan.number for loan in standing]

    def release(self, loan: Loan, slots: Sequence[int]) -> tuple[list[int], list[Output]]:
        """Slots end; returns those that stood until now. With its last slot a loan ends."""
        ended = loan.release(slots)
        blocks = [loan.blocks[slot] for slot in ended]
        self.free(blocks)
        if not loan.standing_slots:
            self.loans.close(loan)
        return ended, [Zero(block) for block in blocks] if self.config.zero_on_return else []

    def end(self, loans: Sequence[Loan]) -> list[Output]:
        return [out for loan in loans for out in self.release(loan, loan.standing_slots)[1]]

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

    def check(self) -> None:
        self.loans.check()
        lent = [loan.blocks[slot] for loan in self.loans for slot in loan.standing_slots]
        assert sorted(lent) == self._books.blocks(BlockState.LENT), "loans and books disagree"
        for loan in self.loans:
            for slot in loan.standing_slots:
                there = self._pool.generation(loan.blocks[slot])
                assert there == loan.generations[slot], "a lent block was handed on"

    def _extend(self, loan: Loan, now: float) -> None:
        self.loans.extend(loan, now + loan.lease_s * (1 + self.config.drift))
