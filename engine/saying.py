"""Saying: how a server tells something on its terminal or log, which may be full, or gone."""

import os
from contextlib import suppress
from typing import TextIO


def say(line: str, stream: TextIO) -> None:
    """One line in one write: several processes speak there. What cannot be said is not: a full
    disk, or a reader that left, is no reason to end."""
    with suppress(OSError, ValueError):
        os.write(stream.fileno(), f"{line}\n".encode(errors="backslashreplace"))
