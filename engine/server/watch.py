"""Watch: the cluster as it changes, as server-sent events for those who look.

One picture a second, whatever their number; none while nobody looks.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

Json = dict[str, Any]

LATE_S = 0.05
"""so long after a second is over it is told"""


class Watch:
    """``events`` are named after the routes whose bodies they carry."""

    def __init__(
        self,
        cluster: Callable[[], Awaitable[Json]],
        history: Callable[[int], Json],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """``history`` takes the second behind which it is wanted; ``is_over`` ends all streams."""
        self._cluster = cluster
        self._history = history
        self._is_over = is_over
        self._made_in = -1
        """the second of the calendar in which the picture was begun"""
        self._picture: asyncio.Task[str] | None = None

    async def events(self, since: int) -> AsyncGenerator[str]:
        """At once, and then as each second of the calendar is over, until it is closed."""
        while not self._is_over():
            history = self._history(since)
            since = max((one["second"] for one in history["seconds"]), default=since)
            yield _event("history", json.dumps(history))
            yield _event("cluster", await asyncio.shield(self._now()))
            await asyncio.sleep(1.0 + LATE_S - time.time() % 1.0)

    def _now(self) -> asyncio.Task[str]:
        if self._picture is None or self._made_in != int(time.time()):
            self._made_in = int(time.time())
            self._picture = asyncio.create_task(self._draw())
        return self._picture

    async def _draw(self) -> str:
        return json.dumps(await self._cluster())


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
