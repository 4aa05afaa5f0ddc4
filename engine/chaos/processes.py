"""The processes of one's own cluster: found by parentage, told apart by name, and no others."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    name: str
    """as ``children.fork`` calls it: lendkv-pool, lendkv-step, lendkv-planner, lendkv-gateway"""


def descendants(root: int) -> list[Process]:
    """All living processes below ``root``, as they are now."""
    by_parent: dict[int, list[Process]] = {}
    for entry in os.listdir("/proc"):
        process = _look(int(entry)) if entry.isdigit() else None
        if process is not None:
            by_parent.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    left = [root]
    while left:
        below = by_parent.get(left.pop(), [])
        found += below
        left += [process.pid for process in below]
    return found


def role_of(root: int, role: str, instance: int | None) -> Process | None:
    """That role's process below ``root``; of any instance where ``instance`` is None."""
    for process in descendants(root):
        if process.name == f"lendkv-{role}" and instance in (None, rank_of(process.pid)):
            return process
    return None


def rank_of(pid: int) -> int | None:
    """The torchrun rank whose process it is."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                return int(entry[5:])
    return None


def send(root: int, process: Process, number: int) -> bool:
    """Signal it if it still is what it was, below ``root``; a pid may be given to a stranger."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if process not in descendants(root):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _look(pid: int) -> Process | None:
    with suppress(OSError):
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        state, parent = after.split()[:2]
        if state not in "ZX":
            return Process(pid, int(parent), before.partition("(")[2])
    return None
