"""Memory with a descriptor (memfd) that others may map for reading, and that keeps its length.

Processes forked after it inherit the writable map. Everybody else gets ``fd``, which is read-only,
and after ``seal_writes`` nobody can make another writable map, not even by reopening it. So a
mapped reader cannot fall off its end.
"""

import contextlib
import fcntl
import mmap
import os

from engine.errors import ConfigError
from engine.memory.room import no_room, require_room

F_SEAL_FUTURE_WRITE = 0x10
"""Linux 5.1; not yet named by the fcntl module"""


class SealedMemory:
    """So many bytes, zeros at first."""

    def __init__(self, num_bytes: int, *, prefault: bool = False) -> None:
        """Raises ConfigError where there is too little memory."""
        require_room(num_bytes)
        self._closing = contextlib.ExitStack()
        self.fd: int | None = None
        """read-only; None after close"""
        try:
            self._map(num_bytes, prefault=prefault)
        except (OSError, OverflowError) as error:
            self._closing.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise no_room(num_bytes, f"the kernel refused ({reason})") from error
        self.view = memoryview(self._mapped)
        """writable"""

    def seal_writes(self) -> bool:
        """Refuse new writable maps and writes by descriptor; maps that exist stay writable.

        Called once, when all who shall write have their maps. False where the kernel has no such
        seal.
        """
        try:
            fcntl.fcntl(self._writable_fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.fd = None
        with contextlib.suppress(BufferError):  # unmapped when the last view of it goes
            self.view.release()
            self._mapped.close()
        self._closing.close()

    def _map(self, num_bytes: int, *, prefault: bool) -> None:
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self._writable_fd = os.memfd_create("lendkv-pool", flags)
        except AttributeError as error:
            raise ConfigError("a shared pool needs Linux; use pool.name=reference") from error
        self._closing.callback(os.close, self._writable_fd)
        os.ftruncate(self._writable_fd, num_bytes)
        if prefault:
            os.posix_fallocate(self._writable_fd, 0, num_bytes)
        self._mapped = mmap.mmap(self._writable_fd, num_bytes)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(self._writable_fd, fcntl.F_ADD_SEALS, seals)
        self.fd = os.open(f"/proc/self/fd/{self._writable_fd}", os.O_RDONLY)
        self._closing.callback(os.close, self.fd)
