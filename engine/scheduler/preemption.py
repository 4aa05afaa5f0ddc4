"""Preemption: who gives way when there is no memory left, neither here nor at others. No I/O."""

from engine.core import BlockLayout
from engine.scheduler.batch import Batch
from engine.scheduler.clients import Clients
from engine.scheduler.holdings import Holdings
from engine.scheduler.loads import Loads
from engine.scheduler.neighbours import Neighbours
from engine.scheduler.roster import Roster
from engine.scheduler.sequence import Sequence


class Preemption:
    """The youngest goes on where there is room for all of it, or starts over here."""

    def __init__(
        self,
        *,
        layout: BlockLayout,
        roster: Roster,
        batch: Batch,
        holdings: Holdings,
        clients: Clients,
        neighbours: Neighbours,
        loads: Loads,
        grow_blocks: int,
        hand_over: bool,
    ) -> None:
        self._layout = layout
        self._roster = roster
        self._batch = batch
        self._holdings = holdings
        self._clients = clients
        self._neighbours = neighbours
        self._loads = loads
        self._grow_blocks = grow_blocks
        self._hand_over = hand_over

    def make_room(self, short: Sequence) -> None:
        """The youngest gives way; a waiting one that is short gives way itself."""
        running = self._roster.running
        if short not in running:
            self._give_way(short)
            return
        if short not in self._batch.short:
            return  # it was only advised to lend
        self._give_way(max(running, key=lambda one: one.seniority))
        if short in running and self._holdings.store.num_free:
            self._holdings.reserve(short, 1)  # before it goes to who waits

    def _give_way(self, sequence: Sequence) -> None:
        """It goes on where there is room for all of it, or starts over here."""
        num_blocks = self._layout.blocks_for(len(sequence.token_ids) + 1) + self._grow_blocks
        may_go = self._hand_over and not sequence.request.stays
        if may_go and self._neighbours.take(num_blocks):
            self._loads.relief["handovers"] += 1
            # Who goes on may read what others hold; the own blocks are wanted here.
            self._roster.drop(sequence, final=False, keep_lent=True)
            self._clients.hand_over(sequence.request)
        else:
            self._loads.relief["preemptions"] += 1
            self._roster.restart(sequence)
