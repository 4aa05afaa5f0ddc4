"""The line of a drill that says how far it is."""

import sys

from rich.console import Console


class Progress:
    """One line on a terminal, written over; nothing elsewhere."""

    def __init__(self, console: Console) -> None:
        self._on = console.is_terminal

    def __call__(self, text: str) -> None:
        if self._on:
            sys.stderr.write(f"\r\x1b[K{text[:100]}")
            sys.stderr.flush()

    def end(self) -> None:
        self("")
