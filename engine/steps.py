"""Steps: the step process of an instance, or with tensor parallelism those of all its tp ranks.

The ranks of an instance are children of one supervisor, on one host: they inherit the pool's memory
from it, and pipes and a meeting file that no other incarnation has. So if one dies, all are ended
and started again, under one new epoch; the pool and its loans live on.
"""

import logging
import os
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from engine import roles
from engine.children import LOST_ANOTHER, Child, fork, stop
from engine.errors import PeerLost
from engine.follower_role import follow
from engine.meeting import Place
from engine.memory.base import MemoryPool
from engine.team import Team

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Steps:
    """Of one incarnation."""

    leader: Child
    """rank 0"""
    followers: tuple[Child, ...] = ()

    @staticmethod
    def start(place: Place, memory: MemoryPool | None) -> "Steps":
        """Over the instance's shared memory; without any, the step has the pool in its process."""
        size = place.config.tp
        if size == 1:
            return Steps(fork("step", lambda pipe: roles.step(pipe, place, memory)))
        meeting_file = os.memfd_create("lendkv-ranks")
        pairs = [Pipe() for _ in range(size - 1)]
        ours, theirs = ([pair[end] for pair in pairs] for end in (0, 1))

        def lead(pipe: Connection) -> int:
            _close(theirs)
            try:
                return roles.step(pipe, place, memory, Team(ours, meeting_file))
            except PeerLost as error:  # at its start
                log.warning("%s", error)
                return LOST_ANOTHER

        def main(rank: int, pipe: Connection) -> int:
            leader = theirs[rank - 1]
            _close([end for end in (*ours, *theirs) if end is not leader])
            return follow(pipe, place, memory, rank=rank, leader=leader, meeting_file=meeting_file)

        leader = fork("step", lead)
        followers = [
            fork(f"rank {rank}", lambda pipe, rank=rank: main(rank, pipe))  # type: ignore[misc]
            for rank in range(1, size)
        ]
        _close([*ours, *theirs])
        os.close(meeting_file)
        return Steps(leader, tuple(followers))

    @property
    def children(self) -> tuple[Child, ...]:
        return (self.leader, *self.followers)

    @property
    def failed(self) -> Child | None:
        """Who has ended and was not to; of several, not one that ended for another."""
        ended = [one for one in self.children if one.status]
        return min(ended, key=lambda one: one.status == LOST_ANOTHER, default=None)

    def stop(self) -> None:
        """At once."""
        stop(list(self.children), patience_s=0.0)


def _close(pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
