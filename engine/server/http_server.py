"""The HTTP server below the routes: uvicorn, deaf to signals and with no patience for the slow."""

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 64 << 10
"""of a request's line and headers"""
PARTING_S = 2.0
"""for the last words of all answers to be read; an event stream notices its end within 1 s"""


class HttpServer(uvicorn.Server):
    """Its supervisor alone decides when it ends."""

    def __init__(self, app: ASGIApp, *, idle_s: float) -> None:
        """``idle_s``: how long a connection may stay without a whole head of a request."""

        class Hurried(_Hurried):
            patience_s = idle_s

        options = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="on",
            http=Hurried,
            timeout_keep_alive=max(1, int(idle_s)),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        super().__init__(options)

    def stop(self) -> None:
        """Take nothing new, and end when all is told; who does not listen is not waited for."""
        self.should_exit = True
        asyncio.get_running_loop().call_later(PARTING_S, self._part)

    def _part(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Hurried(H11Protocol):
    """uvicorn bounds only the time between an answer and the next request's first byte."""

    patience_s = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.patience_s, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
