"""GManager: the cluster's planner. Sees everything late and decides nothing finally.

Keeps what pools and steps last said and answers who could lend. Its state is soft: it is rebuilt
from heartbeats. (PAPER section 2.1: the gManager and its Global Debt Ledger.) No I/O.
"""

from dataclasses import dataclass

from engine.protocol import (
    BorrowOffer,
    BorrowQuery,
    Creditor,
    Goodbye,
    Heartbeat,
    Member,
    Members,
    MembersQuery,
    Message,
    Register,
)


@dataclass(slots=True)
class _Seen:
    heartbeat: Heartbeat
    at: float


class GManager:
    """``handle(message, now)`` returns the answer, if there is one."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        max_offers: int = 8
        """creditors named in one offer"""
        stale_s: float = 3.0
        """an instance not heard of for so long is not offered"""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pools: dict[int, _Seen] = {}
        self._steps: dict[int, Register] = {}

    def handle(self, message: Message, now: float) -> Message | None:
        match message:
            case Heartbeat():
                known = self._pools.get(message.instance)
                if known is None or message.epoch >= known.heartbeat.epoch:
                    self._pools[message.instance] = _Seen(message, now)
            case Register():
                step = self._steps.get(message.instance)
                if step is None or message.epoch >= step.epoch:
                    self._steps[message.instance] = message
            case BorrowQuery():
                return self._offer(message, now)
            case MembersQuery():
                return self._members(now)
            case Goodbye():
                pass
        return None

    def _alive(self, now: float) -> list[Heartbeat]:
        limit = now - self._config.stale_s
        seen = [seen.heartbeat for seen in self._pools.values() if seen.at >= limit]
        return sorted(seen, key=lambda beat: beat.instance)

    def _offer(self, query: BorrowQuery, now: float) -> BorrowOffer:
        others = [beat for beat in self._alive(now) if beat.instance != query.instance]
        best = sorted(
            others,
            key=lambda beat: (beat.host != query.host, -beat.num_lendable, beat.instance),
        )
        return BorrowOffer(
            query.query,
            [
                Creditor(b.instance, b.epoch, b.address, b.host, b.num_lendable)
                for b in best[: self._config.max_offers]
            ],
            sum(beat.num_lend_cap for beat in others),
        )

    def _members(self, now: float) -> Members:
        members = []
        for beat in self._alive(now):
            step = self._steps.get(beat.instance)
            ready = step is not None and step.epoch == beat.epoch
            members.append(
                Member(
                    beat.instance,
                    beat.epoch,
                    step.address if step is not None and ready else "",
                    beat.num_blocks,
                    beat.num_free,
                    beat.num_lent,
                    beat.num_lendable,
                )
            )
        return Members(members)
