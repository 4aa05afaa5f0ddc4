"""How much memory this process may still take, and the refusal when it is too little."""

import re
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigError

UNITS = {
    **{"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}
SIZE = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?(%|{'|'.join(UNITS)})")
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


def total_bytes() -> int | None:
    """The least of the machine's memory and its cgroup's limit, or None where neither tells."""
    return min((*_kernel("MemTotal:"), *_limits()), default=None)


def parse_size(text: str, total: int | None) -> int:
    """Bytes: ``60%`` of ``total``, or ``4GiB``. Raises ConfigError with what is allowed."""
    if fault := size_fault(text):
        raise ConfigError(fault)
    number, unit = SIZE.fullmatch(text).groups()  # type: ignore[union-attr]
    if unit != "%":
        return int(float(number) * UNITS[unit])
    if total is None:
        raise ConfigError(f"{text}: this machine does not tell its memory; give bytes, as 4GiB")
    return int(float(number) / 100 * total)


def size_fault(text: str) -> str:
    """Why it is no size, or nothing."""
    match = SIZE.fullmatch(text)
    if match is None or (match[2] == "%" and not 0 < float(match[1]) <= 100):
        return f"{text!r} is no share of memory: give 60% or 4GiB (units are {', '.join(UNITS)})"
    return ""


def _kernel(name: str = "MemAvailable:") -> Iterator[int]:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith(name):
            yield int(line.split()[1]) * 1024


def _limits() -> Iterator[int]:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
    except OSError:
        return
    if limit.isdecimal():  # else it is "max"
        yield int(limit)


def _cgroup() -> Iterator[int]:
    for limit in _limits():
        try:
            yield max(0, limit - int((CGROUP / "memory.current").read_text()))
        except (OSError, ValueError):
            return
