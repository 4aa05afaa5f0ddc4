"""Preemption: who gives way when there is no memory left, neither here nor at others. No I/O.

The youngest stops and waits with what it has; whoever runs and finds nothing takes the last block
of the youngest that holds any here: what others hold for it is no room here, and stays. Blocks go
to elder sequences only, so no two take them from each other for ever; and the oldest ends: while
any runs, it gets what the younger hold, down to their last block, and when none does, the oldest
that waits gets it. More urgent ones count as elder than all others, and take what they want of
those while they wait as well.

One that gives way goes on at another instance if that has room for all of it and is likely to be
sooner: its keys are computed again there, and here it would wait until others end.
"""

import math
from collections.abc import Callable

from engine.core import BlockLayout
from engine.scheduler.batch import Batch
from engine.scheduler.clients import Clients
from engine.scheduler.holdings import Holdings
from engine.scheduler.loads import Loads
from engine.scheduler.neighbours import Neighbours
from engine.scheduler.prices import Prices
from engine.scheduler.roster import Roster
from engine.scheduler.sequence import Sequence

SURE_TRIES = 3
"""a sequence that found no room for what it lacks so often starts over, and frees what it has"""


class Preemption:
    """The youngest goes on where there is room for all of it, or makes room here."""

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
        prices: Prices,
        grow_blocks: int,
        hand_over: bool,
        num_missing: Callable[[Sequence], int],
    ) -> None:
        """``num_missing``: own blocks that one which waits still lacks."""
        self._layout = layout
        self._roster = roster
        self._batch = batch
        self._holdings = holdings
        self._clients = clients
        self._neighbours = neighbours
        self._loads = loads
        self._prices = prices
        self._grow_blocks = grow_blocks
        self._hand_over = hand_over
        self._num_missing = num_missing

    def make_room(self, short: Sequence) -> None:
        """A running one found no memory: the youngest of all that hold some gives way."""
        if short not in self._batch.short or short.moving:
            return  # it was only advised to lend; or moves that are under way by now free some
        able = [one for one in self._roster.holding() if one is short or one.has_own]
        youngest = max(able, key=lambda one: one.seniority)
        if youngest is short:
            self._give_way(short, self._roster.suspend, starts_over=short.is_wounded)
            return
        self._shorten(youngest)
        if self._holdings.store.num_free:
            self._holdings.reserve(short, 1)  # before it goes to who waits
        else:  # the pool has it, cached
            self._holdings.draw(1, whom=short)

    def make_way(self, waiting: Sequence, *, hopeless: bool) -> bool:
        """One that waits found no memory; True if a sequence gave way.

        While others run they bring memory when they end, unless they are less urgent. When nobody
        does, all of it is with those that wait: the younger give way to the elder, unless not even
        all of it would do.
        """
        is_stuck = not self._roster.running
        if not hopeless and self._take(waiting, of_all=is_stuck):
            waiting.not_before = 0.0
            return True
        keeps_others_out = waiting.is_wounded or (is_stuck and waiting.table)
        if keeps_others_out and waiting.num_tries >= SURE_TRIES:
            self._give_way(waiting, self._roster.restart, starts_over=True)
            return True
        return False

    def _take(self, waiting: Sequence, *, of_all: bool) -> bool:
        """Less urgent ones give way until it has its blocks; of all younger ones, one block."""
        found = False
        for _ in range(max(1, self._num_missing(waiting))):
            if found and self._num_missing(waiting) <= 0:
                break
            later = [one for one in self._roster.holding() if one.seniority > waiting.seniority]
            less = [one for one in later if one.request.priority > waiting.request.priority]
            chosen = less or (later if of_all and not found else [])
            if not chosen:
                break
            self._shorten(max(chosen, key=lambda one: one.seniority))
            found = True
        return found

    def _shorten(self, sequence: Sequence) -> None:
        starts_over = not self._holdings.can_shorten(sequence)
        self._give_way(sequence, self._roster.shorten, starts_over=starts_over)

    def _give_way(
        self, sequence: Sequence, otherwise: Callable[[Sequence], None], *, starts_over: bool
    ) -> None:
        """It goes on where there is room for all of it, or makes room here.

        ``starts_over``: ``otherwise`` drops all that it has.
        """
        num_blocks = self._layout.blocks_for(len(sequence.token_ids) + 1) + self._grow_blocks
        may_go = self._hand_over and not sequence.request.stays
        is_sooner = may_go and (starts_over or self._is_sooner_elsewhere(sequence))
        if is_sooner and self._neighbours.take(num_blocks):
            self._loads.relief["handovers"] += 1
            # Who goes on may read what others hold; the own blocks are wanted here.
            self._roster.drop(sequence, final=False, keep_lent=True)
            self._holdings.chronicle.note(sequence, "handed_over")
            self._clients.hand_over(sequence.request, sequence.timeline.life())
        else:
            self._loads.relief["preemptions"] += 1
            otherwise(sequence)

    def _is_sooner_elsewhere(self, sequence: Sequence) -> bool:
        """To compute its own keys again takes less time than to wait here."""
        num_tokens = sequence.num_own * self._layout.tokens
        return self._prices.compute_s(num_tokens) < self._wait_s(sequence)

    def _wait_s(self, sequence: Sequence) -> float:
        """Until others have ended and left it what it lacks; their answers may be shorter."""
        others = [one for one in self._roster.running if one is not sequence]
        if not others:
            return math.inf
        num_steps, left = 0, sequence.num_to_place(self._layout.tokens)
        for one in sorted(others, key=lambda one: one.most_steps):
            num_steps = one.most_steps
            left -= one.num_own + len(one.spare)
            if left <= 0:
                break
        return num_steps * self._loads.step_s
