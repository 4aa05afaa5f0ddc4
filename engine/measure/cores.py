"""Cores: each instance of a profile, or of a benchmark, runs on cores of its own."""

import os


def pin(rank: int, threads: int) -> None:
    """This process, and those it will fork, to the rank's ``threads`` cores; they come in turn."""
    cores = sorted(os.sched_getaffinity(0))
    first = rank * threads % len(cores)
    os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in range(threads)})
