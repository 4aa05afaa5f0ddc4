"""Attached tables: which blocks of this pool hold which leaves of a peer's sequence.

A table is checked when it comes and again whenever it is used: between the two a lease may end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.memory.loans import Loan, LoanFenced, Loans, Slot

Leaf = tuple[int, int, int]
"""(leaf index, loan, slot)"""


@dataclass(slots=True)
class Table:
    version: int
    leaves: Sequence[Leaf]
    blocks: list[tuple[int, int]]
    """(leaf index, physical block)"""
    loan_versions: dict[int, int]
    """version of each loan when its slots were last looked at"""


class Tables:
    """The tables of all peers, over the pool's loans."""

    def __init__(self, loans: Loans) -> None:
        self._loans = loans
        self._tables: dict[int, dict[int, Table]] = {}

    def attach(self, peer: int, sequence: int, version: int, leaves: Sequence[Leaf]) -> None:
        """Replaces the sequence's table. The caller has checked the leaves of standing loans.

        A slot may have ended on the way: such a table is never answered.
        """
        blocks = []
        versions: dict[int, int] = {}
        for leaf, number, slot in leaves:
            loan = self._loans.get(number)
            stands = loan is not None and loan.slots[slot] is Slot.COMMITTED
            if loan is None or not stands or versions.get(number) == -1:
                versions[number] = -1
            else:
                versions[number] = loan.version
            if loan:
                blocks.append((leaf, loan.blocks[slot]))
        table = Table(version, leaves, blocks, versions)
        self._tables.setdefault(peer, {})[sequence] = table

    def detach(self, peer: int, sequence: int) -> None:
        self._tables.get(peer, {}).pop(sequence, None)

    def forget(self, peer: int) -> None:
        self._tables.pop(peer, None)

    def resolve(self, peer: int, sequence: int, version: int, now: float) -> list[tuple[int, int]]:
        """The blocks of a table, or LoanFenced unless all of it still stands at ``now``."""
        table = self._tables.get(peer, {}).get(sequence)
        if table is None:
            raise LoanFenced(f"sequence {sequence} has no table here")
        if table.version != version:
            raise LoanFenced(
                f"sequence {sequence} is asked with table version {version}, "
                f"the attached one is {table.version}"
            )
        loans = {number: self._loans.get(number) for number in table.loan_versions}
        gone = [number for number, loan in loans.items() if loan is None or loan.expires <= now]
        if gone:
            raise LoanFenced(f"loans {gone} of sequence {sequence} have ended", gone)
        standing = {number: loan for number, loan in loans.items() if loan}
        if any(loan.version != table.loan_versions[loan.number] for loan in standing.values()):
            self._look_again(table, standing)
        return table.blocks

    def _look_again(self, table: Table, loans: dict[int, Loan]) -> None:
        for leaf, number, slot in table.leaves:
            if loans[number].slots[slot] is not Slot.COMMITTED:
                raise LoanFenced(f"slot {slot} of loan {number}, leaf {leaf}, was released")
        table.loan_versions.update({loan.number: loan.version for loan in loans.values()})

    @property
    def state(self) -> list[tuple[int, int, int]]:
        """(peer, sequence, version) of each; to be compared with another's."""
        every = self._tables.items()
        return [(peer, of, one.version) for peer, tables in every for of, one in tables.items()]

    def check(self) -> None:
        for tables in self._tables.values():
            for table in tables.values():
                leaves = [leaf for leaf, _, _ in table.leaves]
                assert leaves == sorted(set(leaves)), "leaves are not ascending"
