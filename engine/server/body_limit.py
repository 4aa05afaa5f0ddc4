"""Bounds on a request's body: its bytes, and how slowly they may come. Plain ASGI."""

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.server.problems import error_body


class BodyLimit:
    """Starlette's own middleware would hide who has disconnected."""

    def __init__(self, app: ASGIApp, max_bytes: int, idle_s: float) -> None:
        """``idle_s``: longest wait for the next piece."""
        self._app, self._max_bytes, self._idle_s = app, max_bytes, idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        await (refusal or self._app)(scope, self._hurried(receive), send)

    def _refusal(self, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_bytes:
            text = f"The body has {length} bytes; at most {self._max_bytes} are taken."
            return JSONResponse(error_body(413, text), 413)
        if "chunked" in headers.get("transfer-encoding", ""):
            text = "Send a Content-Length; chunked bodies are not taken."
            return JSONResponse(error_body(411, text), 411)
        return None

    def _hurried(self, receive: Receive) -> Receive:
        whole = False

        async def hurried() -> Message:
            nonlocal whole
            if whole:  # what comes now is that the client has gone, some time
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._idle_s)
            except TimeoutError as error:
                text = f"Nothing of the body came for {self._idle_s:g} s."
                raise HTTPException(408, text) from error
            whole = not message.get("more_body", False)
            return message

        return hurried
