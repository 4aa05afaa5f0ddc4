"""``python -m engine`` is ``lendkv``."""

import os
import sys

INTERRUPTED, UNREAD = 130, 141
"""exit statuses, as shells have them: after Ctrl-C, and when who reads the output has left"""


def run() -> int:
    try:
        from engine.cli import main  # takes a moment, in which Ctrl-C may come

        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes there
        return UNREAD
    return status


if __name__ == "__main__":
    raise SystemExit(run())
