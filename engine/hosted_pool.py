"""HostedPool: the pool role on a thread of the step's process, which alone can reach its memory.

Two processes would take turns on a GPU; so does the interpreter with two threads, but kernels run
beside each other, each thread's on a stream of its own. If one role fails, both are started again.
"""

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from threading import Thread

from engine.errors import LendKVError


class HostedPool:
    """``serve`` is the role, and talks through the pipe that it is given as with a supervisor."""

    def __init__(self, serve: Callable[[Connection], int], device: str) -> None:
        """Returns when it can be reached. Raises the LendKVError that it starts with."""
        self._serve = serve
        self._device = device
        self._ours, self._theirs = Pipe()
        self._thread = Thread(target=self._run, name="pool", daemon=True)
        self._thread.start()
        said = self._ours.recv()
        if "error" in said:
            raise LendKVError(said["error"])
        self.address: str = said["pool"]

    def pass_on(self, supervisor: Connection) -> None:
        """Tell the supervisor what the role has to tell it."""
        while self._ours.poll():
            supervisor.send(self._ours.recv())

    def leave(self) -> None:
        """Wait until others have given back what it lent them, as long as the role waits."""
        self._ours.send({"leave": True})
        self._thread.join()

    def _run(self) -> None:
        status = 1
        try:
            if self._device != "cpu":
                import torch

                own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                torch.cuda.set_stream(own)
            status = self._serve(self._theirs)
        except LendKVError as error:
            self._theirs.send({"error": str(error)})
            return
        except BaseException:
            traceback.print_exc()
        if status:  # the supervisor starts the process again
            os._exit(status)
