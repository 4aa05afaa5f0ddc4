"""Output: what a command prints, where its reader has left, a disk is full, or nobody listens."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from engine.children import USER_ERROR
from engine.saying import say

UNREAD = 141
"""exit status, as shells have it, when who reads the output has left"""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare() -> None:
    """Output takes what comes: a letter that a terminal does not have is told by its number, and
    what is said to a stream that was closed goes nowhere, not into the next socket: the lowest
    number that is free is its own."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r"))
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and (out.errors == "strict" or out.encoding != "utf-8"):
        out.reconfigure(errors="backslashreplace")


def guarded(main: Callable[..., int], *args: Any) -> int:
    """The status of ``main``, all of it written; else what the loss of its output amounts to."""
    try:
        try:
            return main(*args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        status = UNREAD
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = error.filename or "the output"
        say(f"lendkv: {where} cannot be written: {error.strerror}; make room there", sys.stderr)
        status = USER_ERROR
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes there
    return status
