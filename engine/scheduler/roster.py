"""Roster: an instance's sequences, and what becomes of them when memory is lost. No I/O.

A sequence that loses blocks is *wounded*: it stops, keeps what it has, and first finds places for
what is missing; only those tokens are computed again.
"""

from collections import Counter
from collections.abc import Collection

from engine.core import BlockLayout
from engine.scheduler.admission import Admission
from engine.scheduler.debts import Debts
from engine.scheduler.holdings import Holdings
from engine.scheduler.negotiator import Negotiator
from engine.scheduler.pins import Pins
from engine.scheduler.returns import Returns
from engine.scheduler.sequence import NOWHERE, Sequence, State


class Roster:
    """Running, waiting, and the one that is being placed."""

    def __init__(
        self,
        *,
        layout: BlockLayout,
        holdings: Holdings,
        admission: Admission,
        returns: Returns,
        negotiator: Negotiator,
        pins: Pins,
        debts: Debts,
    ) -> None:
        self._layout = layout
        self._holdings = holdings
        self._admission = admission
        self._returns = returns
        self._negotiator = negotiator
        self._pins = pins
        self._debts = debts
        self.running: list[Sequence] = []

    def all(self) -> list[Sequence]:
        placing = [self._admission.placing] if self._admission.placing else []
        return [*self.running, *self._admission.waiting, *placing]

    def holding(self) -> list[Sequence]:
        """Those that run or could go on where they are, if only there was memory for more."""
        return [
            one for one in self.all() if one.state is State.RUNNING or (one.table and not one.holes)
        ]

    def note_arrivals(self, now: float) -> None:
        """Those that came since the last time: a request that is sent again is as old as it was."""
        for sequence in self._admission.waiting:  # where all begin
            if sequence.arrived is None:
                sequence.came(now - sequence.request.age_s)
                num_before = max(0, len(self._admission.waiting) - 1)
                self._holdings.chronicle.note(sequence, "queued", amount=num_before)

    def pause(self, instance: int, for_s: float, now: float) -> None:
        """A holder computes for its own first: who needs it runs later."""
        for sequence in self.running:
            if instance in sequence.holders():
                sequence.paused_until = now + for_s
                self._holdings.chronicle.note(sequence, "busy", instance, round(1e3 * for_s))

    def drop(
        self,
        sequence: Sequence,
        *,
        final: bool,
        keep_own: bool = False,
        keep_lent: bool = False,
    ) -> None:
        """It ends here and gives everything back; see ``Holdings.drop``."""
        if sequence in self.running:
            self.running.remove(sequence)
        self._admission.withdraw(sequence)
        self._returns.drop(sequence)
        self._holdings.drop(sequence, final=final, keep_own=keep_own, keep_lent=keep_lent)

    def forgo(self, sequence: Sequence) -> None:
        """It was not placed with what was found for it: it is tried without, at once."""
        self.drop(sequence, final=False, keep_own=True, keep_lent=True)
        sequence.is_plain = True
        self._admission.queue_again(sequence)

    def restart(self, sequence: Sequence) -> None:
        """Drop its memory and queue it again; its tokens stay, their keys are recomputed."""
        lost = sequence.num_computed - sum(end - first for first, end in sequence.holes)
        sequence.recomputed_tokens += lost
        self._note_lost(sequence, "preemption", lost)
        self.drop(sequence, final=False)
        self._admission.queue_again(sequence)

    def suspend(self, sequence: Sequence) -> None:
        """It stops, and waits with what it has; a wounded one starts over."""
        if sequence.is_wounded:
            self.restart(sequence)
            return
        for leaf in [leaf for leaf in sequence.targets if leaf >= len(sequence.table)]:
            self._holdings.untarget(sequence, leaf, release=True)  # it is placed anew
        self._queue_again(sequence, num_spare=0)

    def shorten(self, sequence: Sequence) -> None:
        """It stops, and waits without its last block; or starts over, if that is not to be had."""
        if not self._holdings.can_shorten(sequence):
            self.restart(sequence)
            return
        self.suspend(sequence)
        lost = self._holdings.shorten(sequence)
        sequence.recomputed_tokens += lost
        self._note_lost(sequence, "preemption", lost)

    def lose(self, loans: set[tuple[int, int]], now: float) -> None:
        """These loans have ended: what lay there becomes holes of the sequences that used it."""
        if not loans:
            return
        for key in loans:
            self._debts.remove(*key)
            self._holdings.store.contents.ended(*key)
        self._negotiator.on_gone(loans, now)
        self._pins.on_lost(loans)
        for sequence in self.all():
            gone = loans & sequence.loans.keys()
            for leaf, ref in list(sequence.targets.items()):
                if (ref.instance, ref.loan) in gone:
                    self._holdings.untarget(sequence, leaf, release=False)
            for key in gone:
                del sequence.loans[key]  # gone already: nothing to give back
            table = enumerate(sequence.table)
            lost = [leaf for leaf, ref in table if (ref.instance, ref.loan) in gone]
            self.wound(sequence, lost, "lost_holder")

    def wound(self, sequence: Sequence, leaves: Collection[int], cause: str = "recall") -> None:
        """These leaves are nowhere any more: it must find places for them before it goes on."""
        if not leaves:
            return
        self._note_lost(sequence, cause, len(leaves) * self._layout.tokens)
        self._returns.forget(sequence, leaves)
        sequence.open_holes(leaves, self._layout.tokens)
        if sequence in self._admission.waiting:
            return
        self._queue_again(sequence, num_spare=1)

    def _note_lost(self, sequence: Sequence, cause: str, num_tokens: int) -> None:
        self._holdings.chronicle.note(sequence, f"lost:{cause}", amount=num_tokens)

    def _queue_again(self, sequence: Sequence, num_spare: int) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
        self._admission.withdraw(sequence)
        self._holdings.trim(sequence, num_spare)
        self._admission.queue_again(sequence)

    def check(self) -> None:
        """Each own block in use is one sequence's, for one purpose."""
        used = Counter(self._returns.blocks())
        for sequence in self.all():
            assert sequence.home == self._holdings.home_of(sequence), "not what is at home"
            num_missing = sequence.num_to_place(self._layout.tokens)
            assert num_missing == len(sequence.to_place(self._layout.tokens)), "not what is missing"
            used.update(sequence.spare)
            used.update(ref.block for ref in sequence.table if ref is not NOWHERE and not ref.loan)
        self._holdings.store.check(used)
