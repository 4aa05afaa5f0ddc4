"""The live page at ``/``: static files that ask this gateway for data, and nobody else.

Whoever may not see the data may see the page: it asks for the API key.
"""

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.exceptions import HTTPException

from engine.server.gateway import Gateway
from engine.server.openapi import EVENTS
from engine.server.watch import Watch

FOLDER = Path(__file__).parent
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_router(gateway: Gateway) -> APIRouter:
    """The page, and the routes that keep it live."""
    router = APIRouter()

    def recent(since: int) -> dict[str, Any]:
        return gateway.history.body(since, time.monotonic())

    watch = Watch(gateway.overview, recent, lambda: gateway.is_over)

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return _file(name)

    @router.get("/cluster/history")
    async def history(since: int = 0) -> dict[str, Any]:
        """What answers gave in each second of the last minutes, behind the second ``since``."""
        return recent(since)

    @router.get("/cluster/events", responses=EVENTS, response_class=StreamingResponse)
    async def events(since: int = 0) -> Response:
        """``/cluster`` and ``/cluster/history``, again each second, as server-sent events."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            watch.events(since), media_type="text/event-stream", headers=headers
        )

    return router


def _file(name: str) -> Response:
    path = FOLDER / Path(name).name
    if path.suffix not in TYPES or not path.is_file():
        raise HTTPException(404, f"The page has no file {name!r}.")
    return FileResponse(path, media_type=TYPES[path.suffix], headers=HEADERS)
