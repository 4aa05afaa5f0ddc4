"""Copies: blocks under way between a step and holders, as Mover and Fetcher send them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import protocol as p
from engine.scheduler.effects import Fetch, Move
from engine.sim.truth import SimMemory, layout_of

if TYPE_CHECKING:
    from engine.sim.step import SimStep

Slot = tuple[int, int, int]
"""(instance, loan, slot)"""


class Copies:
    def __init__(self, step: SimStep, memory: SimMemory) -> None:
        self._step = step
        self._memory = memory
        self._size = layout_of(step.world.config.block_tokens).block_bytes
        self._moves: dict[Slot, Move] = {}
        self._fetches: dict[Slot, Fetch] = {}

    def move(self, move: Move) -> None:
        """In two parts with a pause between them, so that a crash can come in the middle."""
        to, keys = move.to, list(self._memory.keys[move.block])
        slot, half = (to.instance, to.loan, to.slot), self._size // 2
        self._moves[slot] = move
        self._step.send(to.instance, p.Write(to.loan, to.slot, 0, False), (half, None))

        def rest() -> None:
            if self._moves.get(slot) is move:
                last = p.Write(to.loan, to.slot, half, True, move.content)
                self._step.send(to.instance, last, (self._size - half, keys))

        self._step.after(self._step.world.chance.uniform(0, 0.004), rest)

    def fetch(self, fetch: Fetch) -> None:
        ref = fetch.ref
        self._fetches[ref.instance, ref.loan, ref.slot] = fetch
        self._step.send(ref.instance, p.Read(ref.loan, ref.slot, 0, self._size))

    def on_ack(self, instance: int, message: p.Ack) -> Move | None:
        return self._moves.pop((instance, message.loan, message.slot), None)

    def on_data(self, instance: int, message: p.Data, keys: list[int]) -> Fetch | None:
        fetch = self._fetches.pop((instance, message.loan, message.slot), None)
        if fetch is not None:
            self._memory.keys[fetch.block] = list(keys)
        return fetch

    def forget(self, unwanted: Callable[[Move | Fetch], bool]) -> None:
        """Nobody wants these any more."""
        self._moves = {slot: one for slot, one in self._moves.items() if not unwanted(one)}
        self._fetches = {slot: one for slot, one in self._fetches.items() if not unwanted(one)}

    def forget_instance(self, instance: int) -> None:
        self._moves = {slot: one for slot, one in self._moves.items() if slot[0] != instance}
        self._fetches = {slot: one for slot, one in self._fetches.items() if slot[0] != instance}
