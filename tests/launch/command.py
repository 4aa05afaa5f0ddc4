"""Runs the true command in processes, and finds what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import shared_memory

ROOT = Path(__file__).parents[2]
MARK = "LENDKV_TEST_MARK"
GUARD_S = 240.0


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("lendkv: ")]


class Command:
    """``python -m engine ARGS``, under torchrun where ``processes`` is given."""

    def __init__(
        self,
        *args: object,
        processes: int = 0,
        prefix: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """``prefix``: a command that runs another one, such as ``ip netns exec NAME``."""
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        command = [*prefix, sys.executable]
        if processes:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes)]
        self.before = shared_memory.names()
        self.process = subprocess.Popen(
            [*command, *self.program(), *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark} | environment,
            start_new_session=True,
            # Where the tests themselves run in the background, it is ignored and would stay so.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def program(self) -> list[str]:
        return ["-m", "engine"]

    def finish(self) -> Done:
        """Wait for its end; nothing of it may remain."""
        try:
            out, err = self.process.communicate(timeout=GUARD_S)
            assert self.gone(), f"left behind: {[names_of(pid) for pid in self.pids()]}"
        finally:
            left = self.pids()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if left:
                self.process.wait(10)
        left = shared_memory.names() - self.before
        assert not left, left
        return Done(self.process.returncode, out, err)

    def gone(self) -> bool:
        deadline = time.monotonic() + 30
        while self.pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.pids()

    def pids(self) -> list[int]:
        """Living processes that carry this command's mark."""
        marked = f"{MARK}={self.mark}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError):
                    if marked in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                        found.append(int(entry))
        return sorted(found)

    def supervisors(self) -> list[int]:
        """Of ranks 0, 1 ..."""
        ranked = {}
        for pid in self.pids():
            rank = rank_of(pid)
            if rank is not None and rank_of(parent_of(pid)) is None:
                ranked[rank] = pid
        return [ranked[rank] for rank in sorted(ranked)]

    def children(self, supervisor: int) -> list[int]:
        """As they were forked: planner, pool, step, frontend on rank 0; step, pool on others."""
        return [pid for pid in self.pids() if parent_of(pid) == supervisor]

    def wait_until(self, ready: object) -> None:
        deadline = time.monotonic() + GUARD_S
        while not ready():  # type: ignore[operator]
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"not so after {GUARD_S:g} s"
            time.sleep(0.01)


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def rank_of(pid: int) -> int | None:
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                return int(entry[5:])
    return None


def names_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "?"
