"""Own processes are found by parentage and name; a stranger is never signalled."""

import os
import signal
import subprocess
import sys
import time

from engine.chaos import processes
from engine.children import fork, stop


def sleeper(_pipe):
    time.sleep(60)


def until(found):
    deadline = time.monotonic() + 30
    while not (what := found()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return what


def test_a_child_is_found_by_its_role_and_struck():
    child = fork("pool", sleeper)
    try:
        pool = until(lambda: processes.role_of(os.getpid(), "pool", None))
        assert pool.pid == child.pid
        assert processes.role_of(os.getpid(), "step", None) is None
        assert processes.send(os.getpid(), pool, signal.SIGKILL)
        assert until(lambda: child.poll() is not None)
        assert child.status == -signal.SIGKILL
        assert not processes.send(os.getpid(), pool, signal.SIGKILL)
    finally:
        stop([child], patience_s=0.0)


def test_who_is_not_below_the_root_is_left_alone():
    root = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child = fork("pool", sleeper)
    try:
        pool = until(lambda: processes.role_of(os.getpid(), "pool", None))
        assert processes.role_of(root.pid, "pool", None) is None
        assert not processes.send(root.pid, pool, signal.SIGKILL)
        assert child.poll() is None
    finally:
        stop([child], patience_s=0.0)
        root.kill()
        root.wait()
