"""Membership: who may join a running cluster, under which number, and where messages find whom.

The planner's part; soft state like all of it, so a new one listens before it gives a number. What
it cannot hear, since a member may be silent or still on its way, it is told at its start. No I/O.
"""

from typing import Any

from engine.protocol import (
    Evacuate,
    Heartbeat,
    Join,
    Joined,
    Lend,
    Load,
    Message,
    NotJoined,
    Register,
    version_fault,
)

LISTEN_S = 2.0
"""a new planner hears of every member within so long; before, it gives no numbers, and calls
nothing more than all of them could lend"""


class Membership:
    """``handle(peer, message, now)`` returns messages with the control peers they are for."""

    def __init__(self, *, cluster: str, layout: str, num_first: int, now: float) -> None:
        """Numbers below ``num_first`` are taken: by the instances that began with the cluster, and
        by those to whom earlier planners gave one.
        """
        self._cluster = cluster
        self._layout = layout
        self._listens_until = now + LISTEN_S
        self._next = num_first
        self._given: dict[int, int] = {}
        """numbers by ticket"""
        self.steps: dict[int, bytes] = {}
        """control peers by instance"""
        self.pools: dict[int, bytes] = {}

    @property
    def next_number(self) -> int:
        """What the next planner must begin with; remember it before an answer leaves."""
        return self._next

    def listens(self, now: float) -> bool:
        """There may be members that have not spoken to it yet."""
        return now < self._listens_until

    def handle(self, peer: bytes, message: Message, now: float) -> list[tuple[bytes, Message]]:
        match message:
            case Register() | Load():
                self._seen(message.instance, self.steps, peer)
            case Heartbeat():
                self._seen(message.instance, self.pools, peer)
            case Join():
                return [(peer, answer) for answer in self._join(message, now)]
            case Evacuate():  # a donor has no step
                to = self.steps.get(message.instance) or self.pools.get(message.instance)
                return [(to, message)] if to else []
            case Lend():
                to = self.pools.get(message.instance)
                return [(to, message)] if to else []
        return []

    @property
    def state(self) -> list[Any]:
        """What it knows; to be compared with another's."""
        return [self._next, self._given, self.steps, self.pools]

    def _seen(self, instance: int, peers: dict[int, bytes], peer: bytes) -> None:
        peers[instance] = peer
        self._next = max(self._next, instance + 1)

    def _join(self, message: Join, now: float) -> list[Message]:
        if fault := version_fault(message.protocol):
            return [NotJoined(message.ticket, f"who joins {fault}")]
        if message.layout != self._layout:
            reason = f"its blocks are {self._layout}, yours {message.layout}"
            advice = "use the same model, model.dtype, pool.dtype and pool.block_tokens"
            return [NotJoined(message.ticket, f"{reason}: {advice}")]
        if self.listens(now):
            return []
        if message.ticket not in self._given:
            self._given[message.ticket] = self._next
            self._next += 1
        return [Joined(message.ticket, self._given[message.ticket], self._cluster)]
