"""Cores: each instance of a profile, or of a benchmark, runs on cores of its own."""

import os
import time
from pathlib import Path


def pin(rank: int, threads: int) -> None:
    """This process, and those it will fork, to the rank's ``threads`` cores; they come in turn."""
    cores = sorted(os.sched_getaffinity(0))
    first = rank * threads % len(cores)
    os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in range(threads)})


def used_s() -> float:
    """Seconds that the host's cores have been at work since it started."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _wait, *interrupts = map(int, first.split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def busy_share(seconds: float) -> float:
    """Of the host's cores, over so long."""
    before, began = used_s(), time.monotonic()
    time.sleep(seconds)
    return (used_s() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
