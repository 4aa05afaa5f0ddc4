"""Turns: work of several peers, a piece at a time from each in turn, each peer's own in order."""

from collections import deque
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Turns(Generic[Job]):
    """A peer with much to do delays the others by one piece at most."""

    def __init__(self) -> None:
        self._jobs: dict[int, deque[Job]] = {}

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def append(self, peer: int, job: Job) -> None:
        self._jobs.setdefault(peer, deque()).append(job)

    def take(self) -> tuple[int, Job]:
        """The next peer's first job; that peer comes last from now on."""
        peer = next(iter(self._jobs))
        jobs = self._jobs.pop(peer)
        job = jobs.popleft()
        if jobs:
            self._jobs[peer] = jobs
        return peer, job

    def put_back(self, peer: int, job: Job) -> None:
        """It is not finished: the peer goes on with it when its turn comes again."""
        jobs = self._jobs.pop(peer, deque())
        jobs.appendleft(job)
        self._jobs[peer] = jobs

    def forget(self, peer: int) -> None:
        self._jobs.pop(peer, None)
