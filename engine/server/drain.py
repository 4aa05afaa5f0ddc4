"""Drain: a gateway that was told to end takes nothing new, and gives what it has some time."""

import asyncio
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from engine.server.gateway import Gateway
from engine.server.problems import SHUTTING_DOWN

LOOK_S = 0.05


class Drain:
    """Waits for its supervisor's word, then for the requests, then stops the server."""

    def __init__(
        self, gateway: Gateway, pipe: Connection, stop: Callable[[], None], *, of_all: bool
    ) -> None:
        """``of_all``: the cluster ends with it, so it waits for other gateways' requests too."""
        self._gateway = gateway
        self._pipe = pipe
        self._stop = stop
        self._of_all = of_all

    async def run(self) -> None:
        gateway = self._gateway
        gateway.closes_at = time.monotonic() + await self._word()
        while time.monotonic() < gateway.closes_at and await self._is_busy():
            await asyncio.sleep(LOOK_S)
        for entry in gateway.table.running:
            text = "The server is shutting down and its time is up; send the request again later."
            gateway.fail(entry.request.request_id, text, SHUTTING_DOWN)
        gateway.is_over = True
        self._stop()

    async def _is_busy(self) -> bool:
        if self._gateway.table.running:
            return True
        if not self._of_all:
            return False
        view = await self._gateway.views.look()
        return any(load.num_running or load.num_waiting for load in view.steps)

    async def _word(self) -> float:
        """Seconds that it has, once the supervisor says so."""
        loop = asyncio.get_running_loop()
        said: asyncio.Future[float] = loop.create_future()

        def read() -> None:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):  # the supervisor has ended, and this process will
                loop.remove_reader(self._pipe.fileno())
                return
            if "drain" in message and not said.done():
                said.set_result(message["drain"])

        loop.add_reader(self._pipe.fileno(), read)
        try:
            return await said
        finally:
            loop.remove_reader(self._pipe.fileno())
