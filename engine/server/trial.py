"""Trial: something is tried in a fork of this process, which a time limit or a fault may end.

Some grammars take the library hours, or more stack than there is; neither must hold a gateway up.
"""

import os
import signal
from collections.abc import Callable

from engine.errors import LendKVError


def refusal(work: Callable[[], object], limit_s: float) -> str:
    """Why the work fails, ``limit_s`` of processor time at most; empty if it does not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.setitimer(signal.ITIMER_PROF, limit_s)  # SIGPROF ends it, whatever it does
            os.write(writer, b"." + _reason(work).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said[1:].decode() if said else f"it takes more than {limit_s:g} s, or too much memory"


def _reason(work: Callable[[], object]) -> str:
    try:
        work()
    except LendKVError as error:
        return str(error)
    return ""
