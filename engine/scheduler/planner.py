"""Planner: who belongs to the cluster and who has room, and where each answer goes. No I/O."""

from msgspec.structs import replace

from engine.protocol import BorrowOffer, Freeze, Message
from engine.protocol.base import MAX_BLOCKS
from engine.scheduler.base import Placement, StepCost
from engine.scheduler.gmanager import GManager
from engine.scheduler.membership import Membership
from engine.scheduler.own_time import OwnTime

Said = tuple[bytes, Message]
"""a control peer, and a message for it"""
LOOKS = 3
"""it looks so often, and more, in the time after which the silent are gone"""


class Planner:
    """Membership and GManager as one machine: both hear everything.

    While it is stopped nobody falls silent: they are given time to speak again.
    """

    Config = GManager.Config

    def __init__(
        self,
        config: GManager.Config,
        *,
        placement: Placement,
        cost: StepCost,
        block_tokens: int,
        cluster: str,
        layout: str,
        num_first: int,
        now: float,
    ) -> None:
        self._gmanager = GManager(config, placement=placement, cost=cost, block_tokens=block_tokens)
        self._membership = Membership(cluster=cluster, layout=layout, num_first=num_first, now=now)
        self._time = OwnTime(config.stale_s / LOOKS, now)

    def handle(self, peer: bytes, message: Message, now: float) -> list[Said]:
        now = self._time.at(now)
        said = self._membership.handle(peer, message, now)
        answer = self._gmanager.handle(message, now)
        if isinstance(answer, BorrowOffer) and self._membership.listens(now):
            # who has not spoken yet may lend any number: nothing is beyond all of them
            answer = replace(answer, num_lend_cap=MAX_BLOCKS)
        return said if answer is None else [*said, (peer, answer)]

    def tick(self, now: float) -> list[Said]:
        """Advice, when it is time for some, to those who can be reached."""
        said: list[Said] = []
        for advice in self._gmanager.tick(self._time.at(now)):
            is_for_pool = isinstance(advice.message, Freeze)
            peers = self._membership.pools if is_for_pool else self._membership.steps
            if advice.instance in peers:
                said.append((peers[advice.instance], advice.message))
        return said

    @property
    def next_number(self) -> int:
        """See Membership; a member's number must outlive this planner."""
        return self._membership.next_number

    @property
    def state(self) -> list[object]:
        """What it knows; to be compared with another's."""
        return [self._gmanager.state, self._membership.state]
