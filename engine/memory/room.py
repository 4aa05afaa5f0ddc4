"""How much memory this process may still take, and the refusal when it is too little."""

from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def require_room(wanted_bytes: int) -> None:
    """Raises ConfigError when the machine or its container has less than ``wanted_bytes``."""
    there = available_bytes()
    if there is not None and wanted_bytes > there:
        raise no_room(wanted_bytes, f"{there:,} bytes of memory are available")


def no_room(wanted_bytes: int, found: str) -> ConfigError:
    return ConfigError(
        f"the pool wants {wanted_bytes:,} bytes and {found}; "
        "lower pool.num_blocks, or give the machine or its container more memory"
    )


def available_bytes() -> int | None:
    """The least of what the kernel and a memory cgroup leave, or None where neither tells."""
    return min((*_kernel(), *_cgroup()), default=None)


def _kernel() -> Iterator[int]:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _cgroup() -> Iterator[int]:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        current = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return
    if limit != "max":
        yield max(0, int(limit) - current)
