"""Ranks: the other tp ranks of a step, as rank 0 sees them. With tp=1 there are none.

Rank 0 schedules, samples and talks to pools and clients; the others run its plans on their part of
the model, and ask holders for their own heads.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

from msgspec import structs
from torch import Tensor

from engine.core import BlockRef, Plan
from engine.errors import PeerLost
from engine.model.runner import Runner
from engine.protocol import Message, encode
from engine.protocol.ranks import FROM_RANK, End, Heard, Run


class Ranks:
    """Raises PeerLost where one is gone: then this step is over, and all start anew."""

    def __init__(self, pipes: Sequence[Connection] = ()) -> None:
        self._pipes = tuple(pipes)
        self._tables: dict[int, tuple[BlockRef, ...]] = {}
        """of the last plan's sequences"""
        self.heard: deque[Heard] = deque()
        """what they have learned in steps that were poisoned, and nobody has looked at yet"""

    def tell(self, message: Message) -> None:
        """All of them."""
        data = encode(message) if self._pipes else b""
        for pipe in self._pipes:
            try:
                pipe.send_bytes(data)
            except OSError as error:
                raise PeerLost(f"a tp rank of this instance is gone: {error}") from error

    def run(self, plan: Plan) -> None:
        """They run it, and wait in it for rank 0."""
        if self._pipes:
            self.tell(Run(shortened(plan, self._tables)))
            self._tables = {span.sequence: span.table for span in plan.spans}

    def hear(self) -> None:
        """The step was poisoned: each of them says what it knows."""
        for pipe in self._pipes:
            try:
                self.heard.append(FROM_RANK(pipe.recv_bytes()))
            except (EOFError, OSError) as error:
                raise PeerLost(f"a tp rank of this instance is gone: {error!r}") from error

    def close(self) -> None:
        with suppress(PeerLost):
            self.tell(End())
        for pipe in self._pipes:
            pipe.close()


def shortened(plan: Plan, known: dict[int, tuple[BlockRef, ...]]) -> Plan:
    """Without the tables that are ``known``, by sequence."""
    return replace(
        plan,
        spans=tuple(
            structs.replace(span, table=()) if known.get(span.sequence) == span.table else span
            for span in plan.spans
        ),
    )


def completed(plan: Plan, known: dict[int, tuple[BlockRef, ...]]) -> Plan:
    """The inverse of ``shortened``."""
    return replace(
        plan,
        spans=tuple(
            span if span.table else structs.replace(span, table=known[span.sequence])
            for span in plan.spans
        ),
    )


class LedRunner:
    """Rank 0's: the others run each plan with it."""

    def __init__(self, runner: Runner, ranks: Ranks) -> None:
        self._runner = runner
        self._ranks = ranks

    def run(self, plan: Plan) -> tuple[Tensor, frozenset[int]]:
        self._ranks.run(plan)
        logits_NV, poisoned = self._runner.run(plan)
        if poisoned:
            self._ranks.hear()
        return logits_NV, poisoned
