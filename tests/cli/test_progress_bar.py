"""The bar of commands that take a while: on terminals only."""

import io

import pytest
from rich.console import Console

from engine.progress_bar import progress_bar


@pytest.mark.parametrize(
    ("terminal", "counted", "hidden", "seen"),
    [
        (True, True, False, ["reading", "3/7", "0:00:0"]),
        (True, False, False, ["reading", "0:00:0"]),
        (True, True, True, []),
        (False, True, False, []),
    ],
)
def test_it_is_drawn_on_terminals_unless_it_is_hidden(terminal, counted, hidden, seen):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    with progress_bar(console, counted=counted, hidden=hidden, auto_refresh=False) as bar:
        bar.update(bar.add_task("reading", total=7), completed=3)
    drawn = file.getvalue()
    assert all(part in drawn for part in seen)
    assert bool(drawn.strip()) == bool(seen)
    assert ("3/7" in drawn) == ("3/7" in seen)
