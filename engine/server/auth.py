"""Auth: lets in who brings a key, and tells the routes behind it whose key it is. Plain ASGI."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.server.api_keys import ApiKeys
from engine.server.problems import error_body

OPEN = frozenset({"/", "/health", "/ready", "/version", "/metrics", "/docs", "/openapi.json"})
"""what needs no key: nothing here runs a request or tells of one"""
PAGE = "/page/"
"""the same of the files of the page at /, which asks for the key that its data need"""


class Auth:
    """Puts ``tenant`` into the request's state, or answers 401."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith(PAGE):
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get("authorization", "")
        tenant = self._keys.find(header)
        if tenant is None:
            await _refusal(header)(scope, receive, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        await self._app(scope, receive, send)


def _refusal(header: str) -> JSONResponse:
    text = "The API key is not one of this server's."
    if not header:
        text = "You did not provide an API key: send the header Authorization: Bearer KEY."
    body = error_body(401, text, code="invalid_api_key")
    return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
