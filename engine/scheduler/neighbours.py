"""Neighbours: who else could run a sequence at home, as the planner last said. No I/O."""

from collections.abc import Sequence

from engine.protocol import Member


class Neighbours:
    """Free blocks of the instances that serve; stale by design, like all that the planner says."""

    def __init__(self, instance: int) -> None:
        self._instance = instance
        self._room: dict[int, int] = {}

    def on_members(self, members: Sequence[Member]) -> None:
        self._room = {
            member.instance: member.num_free
            for member in members
            if member.instance != self._instance and member.step_address and not member.draining
        }

    def take(self, num_blocks: int) -> bool:
        """Whether one has room for so many; it is counted as taken until the planner speaks again.

        Who gets them is the router's choice: it knows more, later.
        """
        roomiest = max(self._room, key=lambda one: (self._room[one], -one), default=None)
        if roomiest is None or self._room[roomiest] < num_blocks:
            return False
        self._room[roomiest] -= num_blocks
        return True
