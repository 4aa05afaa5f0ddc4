"""Agent: the torchrun that ``lendkv`` starts, one process an instance; how its ranks hear and end.

It gets a session of its own: Ctrl-C comes to ``lendkv``, and the ranks are asked to leave by a
file, as torchrun would answer a signal with a traceback. Rank 0's status comes back by another.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from engine.children import ONE_S, USER_ERROR, started
from engine.folder import Folder
from engine.output import UNREAD
from engine.world import AT_ONCE, STATUS_FILE, STOP_FILE, torchrun


def run(num_processes: int, argv: list[str]) -> int:
    """Run ``lendkv ARGV`` in so many processes; the exit status."""
    with Folder() as folder:
        status_file, stop_file = folder / "status", folder / "stop"
        caught: list[tuple[int, float]] = []
        child: subprocess.Popen[bytes] | None = None

        def leave(number: int, _frame: object) -> None:
            now = time.monotonic()
            if not caught or now - caught[-1][1] > ONE_S:
                caught.append((number, now))
            stop_file.write_text("" if len(caught) == 1 else AT_ONCE)
            if len(caught) > 2 and child is not None:  # they do not listen
                child.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        child = started(
            [*torchrun(num_processes, str(folder)), "engine", *argv],
            # torchrun would set the first one to the same, and warn of it in a frame of stars
            env={"OMP_NUM_THREADS": "1"}
            | os.environ
            | {STATUS_FILE: str(status_file), STOP_FILE: str(stop_file)},
            start_new_session=True,
        )
        status = child.wait()
        if caught:
            return 0 if caught[0][0] == signal.SIGTERM else 128 + caught[0][0]
        said = int(status_file.read_text()) if status_file.exists() else 0
        if said or not status:
            return said
        print(f"lendkv: {_failed(status, num_processes)}", file=sys.stderr, flush=True)
        return status if status > 0 else 128 - status


def _failed(status: int, num_processes: int) -> str:
    """What became of ranks whose rank 0 has no mistake to tell of, or could not."""
    if status < 0:
        why = f"torchrun was killed (signal {-status})"
    else:
        why = "torchrun, or a process of it, was ended from outside or failed, as it says above"
    return f"{why}; all {num_processes} have ended with it: start the command again"


def home() -> Path | None:
    """Where a rank's folder lies if ``lendkv`` started it, and goes though the rank is killed."""
    path = os.environ.get(STOP_FILE)
    return Path(path).parent if path else None


def leave(status: int) -> int:
    """What a rank ends with: torchrun buries a status other than 0 under a traceback of its own.

    So what a user can mend, which was said in a sentence, ends with 0 there, and so does output
    that its reader does not want; whoever started torchrun through ``lendkv`` gets the true status
    through a file.
    """
    if "WORLD_SIZE" not in os.environ:
        return status
    path = os.environ.get(STATUS_FILE)
    if path and os.environ.get("RANK") == "0":
        Path(path).write_text(str(status))
        return 0
    return 0 if status in (USER_ERROR, UNREAD) else status
