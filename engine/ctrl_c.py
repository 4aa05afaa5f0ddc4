"""Ctrl-C: until a verb has something to put in order, it ends the process at once.

What is being loaded meanwhile would swallow a KeyboardInterrupt, or make another error of it.
"""

import os
import signal

INTERRUPTED = 130
"""the exit status, as shells have it"""


def ends_at_once() -> None:
    """Unless it is ignored, as in the background of a script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def is_raised() -> None:
    """From now on it is a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_number: int, _frame: object) -> None:
    os._exit(INTERRUPTED)
