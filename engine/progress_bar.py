"""The progress bar of commands that take a while."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bar(
    console: Console, *, counted: bool = True, hidden: bool = False, **how: Any
) -> Progress:
    """What is being done, the bar, where ``counted`` how many of how many are, and since when.

    Drawn on terminals only, and not where it is ``hidden``; ``how`` is as rich's Progress has it.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *([MofNCompleteColumn()] if counted else []),
        TimeElapsedColumn(),
        console=console,
        disable=hidden or not console.is_terminal,
        **how,
    )
