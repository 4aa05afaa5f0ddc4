"""Views: the cluster as the planner knows it, asked for when somebody looks, and only then."""

import asyncio
import time
from collections.abc import Callable

from engine.protocol import View, ViewQuery

FRESH_S = 0.25
"""whoever looks again so soon is shown the same"""
PATIENCE_S = 1.0
"""how long an answer is waited for: the planner may be away"""


class Views:
    """``look`` gives what is known, asking first if that is old; ``heard`` takes the answer."""

    def __init__(self, ask: Callable[[ViewQuery], object]) -> None:
        self._ask = ask
        self._view = View([], [])
        self._at = -PATIENCE_S
        self._answer: asyncio.Future[None] | None = None
        """of the question under way: all who look at once share it"""

    async def look(self) -> View:
        """The last view known, when the planner does not answer."""
        if time.monotonic() - self._at < FRESH_S:
            return self._view
        if self._answer is None or self._answer.done():
            self._answer = asyncio.get_running_loop().create_future()
            self._ask(ViewQuery())
        await asyncio.wait([self._answer], timeout=PATIENCE_S)
        if not self._answer.done():
            self._answer.cancel()
        return self._view

    def heard(self, view: View) -> None:
        self._view, self._at = view, time.monotonic()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
