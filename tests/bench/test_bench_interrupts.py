"""Ctrl-C at a benchmark: no traceback, neither of its own nor of a process that it started."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "launch"))
from command import Command


class Bench(Command):
    """``python -m bench.NAME ARGS``"""

    def program(self):
        return ["-m"]


@pytest.mark.parametrize(
    ("words", "num_processes"),
    [
        (["bench.decode"], 1),
        (["bench.transport", "--transports", "shm"], 4),
        (["bench.transport", "--transports", "shm"], 10),
        (["bench.context", "--instances", "2"], 2),
        (["bench.context", "--instances", "2"], 4),  # the ranks are being loaded
        (["bench.context", "--instances", "2"], 6),
    ],
)
def test_ctrl_c_ends_a_benchmark_without_a_word(words, num_processes, tmp_path):
    command = Bench(*words, TMPDIR=str(tmp_path))
    is_loading = "_multiarray_umath"
    maps = Path(f"/proc/{command.process.pid}/maps")
    command.wait_until(lambda: is_loading in maps.read_text())
    command.wait_until(lambda: len(command.pids()) >= num_processes)
    os.killpg(command.process.pid, signal.SIGINT)
    done = command.finish()
    assert (done.status, done.err) == (-signal.SIGINT, "")
    assert not list(tmp_path.iterdir())
