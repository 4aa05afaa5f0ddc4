"""Team: what rank 0 of a step has of the other tp ranks when it starts. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from engine.errors import PeerLost
from engine.protocol import encode
from engine.protocol.ranks import Start

if TYPE_CHECKING:
    from engine.comm.collective import Collective


@dataclass(frozen=True, slots=True)
class Team:
    """Of nobody but rank 0, where tp is 1."""

    pipes: Sequence[Connection] = ()
    """to ranks 1, 2 ..."""
    meeting_file: int = -1
    """where all ranks meet"""

    def start(self, key: bytes, epoch: int) -> None:
        """Tell them what was met, and the step's epoch. Raises PeerLost."""
        for rank, pipe in enumerate(self.pipes, 1):
            try:
                pipe.send_bytes(encode(Start(key, epoch)))
            except OSError as error:
                raise PeerLost(f"tp rank {rank} is gone before it was started") from error

    def show(self, parts: Sequence[object]) -> None:
        """To each its part of the pool, of all ranks' in order. Raises PeerLost."""
        for rank, pipe in enumerate(self.pipes, 1):
            try:
                pipe.send(parts[rank])
            except OSError as error:
                raise PeerLost(f"tp rank {rank} is gone before it was started") from error

    def meet(self, device: str) -> Collective | None:
        """Waits for all of them; ``device``: where the model runs. Raises PeerLost."""
        if not self.pipes:
            return None
        from engine.comm.torch_collective import TorchCollective

        return TorchCollective(self.meeting_file, 0, len(self.pipes) + 1, device)


ALONE = Team()
