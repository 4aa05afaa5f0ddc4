"""Returns: lent leaves on their way home, because their creditor or the planner asks. No I/O.

A leaf is fetched into an own block, then its slot is given back. A creditor's Recall has a
deadline: what is not home by then is dropped and becomes a hole, whose tokens are computed again.
Without room at home the sequence's other leaves are lent on first (``short``): so a leaf goes home,
to a third instance, or away, in this order.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from engine.core import BlockRef
from engine.errors import CapacityError
from engine.protocol import Recall
from engine.scheduler.effects import Cancel, Fetch
from engine.scheduler.holdings import Holdings
from engine.scheduler.prices import Prices
from engine.scheduler.sequence import Sequence

DROP_SHARE = 0.25
"""of a recall's time, kept for the Release to arrive"""
MAX_FETCHES = 8
"""leaves under way at once: a return must not drown the steps' own messages"""
DRAW_S = 0.02
"""pause between draws for returning leaves"""
NEVER = float("inf")
"""when a leaf is dropped that comes home by the planner's wish only"""


class Returns:
    """All returning leaves of an instance; the leaves themselves are in ``Sequence.returning``."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._blocks: dict[tuple[int, int], tuple[BlockRef, int, float]] = {}
        """(sequence, leaf) under way -> where it is lent, the own block it comes to, since when"""
        self._next_draw = 0.0

    def recall(
        self, sequences: Iterable[Sequence], instance: int, message: Recall, now: float
    ) -> None:
        """The creditor wants these slots back."""
        drop_at = now + message.within_s * (1 - DROP_SHARE)
        wanted = {(instance, message.loan, slot) for slot in message.slots}
        for sequence in sequences:
            if (instance, message.loan) not in sequence.loans:
                continue
            self._holdings.chronicle.note(sequence, "recalled", instance, len(message.slots))
            for leaf, ref in list(sequence.targets.items()):
                if (ref.instance, ref.loan, ref.slot) in wanted:
                    self._holdings.untarget(sequence, leaf, release=True)
            for leaf, ref in enumerate(sequence.table):
                if (ref.instance, ref.loan, ref.slot) in wanted:
                    before = sequence.returning.get(leaf, drop_at)
                    sequence.returning[leaf] = min(before, drop_at)

    def settle(self, sequences: Iterable[Sequence], instance: int, num_blocks: int) -> None:
        """Bring so many leaves home from an instance, the youngest first; never at a price."""
        lent = [
            (sequence, leaf)
            for sequence in sequences
            for leaf, ref in enumerate(sequence.table)
            if ref.loan and ref.instance == instance and leaf not in sequence.returning
        ]
        for sequence, leaf in sorted(lent, key=lambda at: (-at[1], at[0].seniority))[:num_blocks]:
            sequence.returning[leaf] = NEVER

    def tick(
        self, sequences: Iterable[Sequence], now: float, lose: Callable[[Sequence, list[int]], None]
    ) -> Sequence | None:
        """Drop what is late, fetch what has room; the sequence that waits for room in vain."""
        returning = [sequence for sequence in sequences if sequence.returning]
        if not returning:
            return None
        waiting: list[tuple[float, Sequence, int]] = []
        for sequence in returning:
            late = [leaf for leaf, drop_at in sequence.returning.items() if drop_at <= now]
            for leaf in late:
                self._stop(sequence, leaf)
                self._holdings.release_slot(sequence, sequence.table[leaf])
            if late:
                lose(sequence, late)
            waiting += [
                (drop_at, sequence, leaf)
                for leaf, drop_at in sequence.returning.items()
                if (sequence.number, leaf) not in self._blocks
            ]
        waiting.sort(key=lambda one: (one[0], one[1].seniority, one[2]))
        for _, sequence, leaf in waiting[: max(0, MAX_FETCHES - len(self._blocks))]:
            try:
                [block] = self._holdings.store.allocate(1)
            except CapacityError:
                if not self._draw(len(waiting), now):
                    return None
                for of, wished in [(of, at) for ends, of, at in waiting if ends == NEVER]:
                    self._stop(of, wished)  # the planner will wish again
                return sequence
            ref = sequence.table[leaf]
            self._blocks[sequence.number, leaf] = (ref, block, now)
            self._holdings.effects.append(Fetch(sequence.number, leaf, ref, block))
        return None

    def bring_found(self, sequence: Sequence, prices: Prices) -> int:
        """It begins to run. What was found for it elsewhere, and is read there meanwhile, comes
        home if that is cheaper and the pool has room; returns how many leaves.
        """
        found = Counter(ref.instance for ref in sequence.table if ref.loan)
        num_found = found.total() if sequence.is_reused else 0
        sequence.is_reused = False
        if num_found >= self._holdings.num_left or not prices.are_copied(sequence, num_found):
            return 0
        for instance, number in found.items():
            self.settle([sequence], instance, number)
        return num_found

    def pace(self, number: int, leaf: int, now: float) -> float | None:
        """Seconds for each of the blocks under way, by this one, which has come."""
        under_way = self._blocks.get((number, leaf))
        return (now - under_way[2]) / len(self._blocks) if under_way else None

    def on_fetched(self, sequence: Sequence | None, number: int, leaf: int) -> None:
        """A leaf has arrived; its sequence may have lost interest meanwhile."""
        ref, block, _ = self._blocks.pop((number, leaf), (None, -1, 0.0))
        if ref is None:
            return
        if sequence is None or leaf not in sequence.returning or sequence.table[leaf] != ref:
            self._holdings.free([block])
            return
        del sequence.returning[leaf]
        self._holdings.fetched(sequence, leaf, block)

    def forget(self, sequence: Sequence, leaves: Iterable[int]) -> None:
        """These leaves are gone: nothing to bring home."""
        for leaf in leaves:
            if leaf in sequence.returning:
                self._stop(sequence, leaf)

    def drop(self, sequence: Sequence) -> None:
        """The sequence gives everything back."""
        self.forget(sequence, list(sequence.returning))

    def blocks(self) -> list[int]:
        """Own blocks that leaves under way come to."""
        return [block for _, block, _ in self._blocks.values()]

    def _stop(self, sequence: Sequence, leaf: int) -> None:
        del sequence.returning[leaf]
        under_way = self._blocks.pop((sequence.number, leaf), None)
        if under_way is not None:
            self._holdings.effects.append(Cancel(sequence.number, leaf))
            self._holdings.free([under_way[1]])

    def _draw(self, num_blocks: int, now: float) -> bool:
        """Ask the pool for room; True when it had none the last time."""
        if now < self._next_draw or self._holdings.drawing:
            return False
        self._next_draw = now + DRAW_S
        self._holdings.draw(min(num_blocks, MAX_FETCHES))
        return self._holdings.found_none
