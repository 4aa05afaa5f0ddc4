"""Folder: where a command keeps what lives as long as it does; gone with it, however it ends.

A lock on a file in it tells whether anybody is left: forked children share it, and the kernel lifts
it with the last of them. What one that was killed left behind is removed by the next.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from engine.errors import ConfigError

PREFIX = "lendkv-"
LOCK = ".lendkv-lock"
"""a folder without it is not ours"""


class Folder:
    """A context in which the folder is there."""

    def __init__(self, inside: Path | None = None) -> None:
        """``inside``: another one, which goes with its own command."""
        self._inside = inside

    def __enter__(self) -> Path:
        """Raises ConfigError where none can be made."""
        try:
            self._path, self._lock = self._make()
        except OSError as error:
            where = self._inside or os.environ.get("TMPDIR", "/tmp")
            raise ConfigError(
                f"no folder for temporary files can be made in {where}: {error.strerror}; "
                "set TMPDIR to a folder that can be written"
            ) from error
        return self._path

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)

    def _make(self) -> tuple[Path, int]:
        if self._inside is None:
            sweep(Path(tempfile.gettempdir()))
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._inside))
        new = path / "lock"
        lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(path / LOCK)  # nobody sees it before it is held
        return path, lock


def sweep(where: Path) -> None:
    """Remove those of this user in which nobody lives any more."""
    for path in where.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # another's, or it has just gone
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.parent)
            finally:
                os.close(lock)


def is_left(path: Path) -> bool:
    """Whether the command whose folder it is has ended."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR)
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
