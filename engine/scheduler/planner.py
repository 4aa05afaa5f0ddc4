"""Planner: who belongs to the cluster and who has room, and where each answer goes. No I/O."""

from engine.protocol import Freeze, Message
from engine.scheduler.base import Placement, StepCost
from engine.scheduler.gmanager import GManager
from engine.scheduler.membership import Membership

Said = tuple[bytes, Message]
"""a control peer, and a message for it"""


class Planner:
    """Membership and GManager as one machine: both hear everything."""

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

    def handle(self, peer: bytes, message: Message, now: float) -> list[Said]:
        said = self._membership.handle(peer, message, now)
        answer = self._gmanager.handle(message, now)
        return said if answer is None else [*said, (peer, answer)]

    def tick(self, now: float) -> list[Said]:
        """Advice, when it is time for some, to those who can be reached."""
        said: list[Said] = []
        for advice in self._gmanager.tick(now):
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
