"""Whether a file can be written, asked before hours are spent on what is to be in it."""

from pathlib import Path
from tempfile import TemporaryFile


def why_not(path: Path) -> str:
    """Why there can be no such file, or nothing. Folders that are missing could be made."""
    if path.is_dir():
        return "it is a folder"
    folder = next(one for one in path.absolute().parents if one.exists())
    try:
        with TemporaryFile(dir=folder):  # rights alone do not tell: a folder may be the kernel's
            return ""
    except OSError as error:
        return f"{folder}: {error.strerror}"
