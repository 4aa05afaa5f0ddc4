"""World: this process's place in a launch, from torchrun's environment."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.folder import is_left
from engine.parent import die_with_parent

STATUS_FILE = "LENDKV_STATUS_FILE"
"""where rank 0 leaves its exit status for the ``lendkv`` that started torchrun"""
STOP_FILE = "LENDKV_STOP_FILE"
"""all ranks leave when this file is there: torchrun answers signals with a traceback"""
AT_ONCE = "at once"
"""what it says when they are to wait for nobody"""


def torchrun(num_processes: int, folder: str) -> list[str]:
    """The command that runs one of Python's modules, which follows, in so many processes.

    What torchrun writes besides lies in ``folder``: it removes nothing itself.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", folder]
    return [*command, "--nproc-per-node", str(num_processes), "-m"]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process's place in the launch, from torchrun's environment."""

    rank: int = 0
    size: int = 1
    instance: int = 0
    """the rank, or the number that a running cluster gave"""
    num_here: int = 1
    """processes of the launch on this host"""
    number_here: int = 0
    """this one's among them"""
    cluster: str = "alone"
    store: tuple[str, int] | None = None
    """host and port of torchrun's key-value store"""

    @staticmethod
    def from_environment() -> "World":
        if "WORLD_SIZE" not in os.environ:
            return World(cluster=f"alone-{os.getpid()}")
        run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        port = int(os.environ["MASTER_PORT"])
        return World(
            rank=int(os.environ["RANK"]),
            instance=int(os.environ["RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            num_here=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            number_here=int(os.environ.get("LOCAL_RANK", "0")),
            cluster=f"{run}/{attempt}/{port}",
            store=(os.environ["MASTER_ADDR"], port),
        )

    @property
    def told_to_stop(self) -> bool:
        """Whether the ``lendkv`` that started torchrun wants all to leave."""
        path = os.environ.get(STOP_FILE)
        return path is not None and os.path.exists(path)

    @property
    def told_to_stop_at_once(self) -> bool:
        return self.told_to_stop and Path(os.environ[STOP_FILE]).read_text() == AT_ONCE

    def end_with_torchrun(self) -> None:
        """This process ends with it, also where it has ended while this one was being loaded."""
        if not self.under_torchrun:
            return
        die_with_parent(os.getppid())
        path = os.environ.get(STOP_FILE)
        if path and is_left(Path(path).parent):
            os._exit(1)

    @property
    def under_torchrun(self) -> bool:
        return self.store is not None
