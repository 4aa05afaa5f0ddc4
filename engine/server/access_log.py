"""Access log: one line for each request, when its answer has ended. Plain ASGI."""

import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.saying import say
from engine.scheduler.entry import Entry

HEADER = "X-Request-Id"
MAX_ID_CHARS = 128
QUIET = frozenset({"/health", "/ready", "/metrics", "/cluster", "/cluster/history"})
"""asked again and again by machines: told only when refused"""


def to_stderr(line: str) -> None:
    say(line, sys.stderr)


class AccessLog:
    """Gives each request an id, the client's own if it has one, and tells it in the answer.

    Handlers put the entries that a request became into ``request.state.entries``.
    """

    def __init__(self, app: ASGIApp, *, as_json: bool, write: Callable[[str], None] | None) -> None:
        """``write`` None: no log."""
        self._app, self._as_json, self._write = app, as_json, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        state = scope.setdefault("state", {})
        given = Headers(scope=scope).get(HEADER, "")[:MAX_ID_CHARS]
        state["request_id"] = given if given.isprintable() and given else secrets.token_hex(8)
        entries: list[Entry] = []
        state["entries"] = entries

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                state["request_id"] = headers.setdefault(HEADER, state["request_id"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if self._write is not None and (status >= 400 or scope["path"] not in QUIET):
                fields = _fields(scope, state, status, time.monotonic() - began)
                self._write(_line(fields | _answer(entries), self._as_json))


def _fields(scope: Scope, state: dict[str, Any], status: int, total_s: float) -> dict[str, Any]:
    """``status`` 0: the connection broke before there was one."""
    client = scope.get("client") or ("", 0)
    tenant = state.get("tenant")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "request_id": state["request_id"],
        "key": tenant.name if tenant is not None else "",
        "client": f"{client[0]}:{client[1]}",
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "total_s": round(total_s, 4),
    }


def _answer(entries: Iterable[Entry]) -> dict[str, Any]:
    """What became of the entries; nothing when there are none."""
    found = list(entries)
    if not found:
        return {}
    first = min(found, key=lambda one: one.first_token_at or float("inf"))
    said: dict[str, Any] = {
        "id": first.request.request_id,
        "prompt_tokens": len(first.request.prompt_ids),
        "output_tokens": sum(len(one.token_ids) for one in found),
        "finish": ",".join(one.error_code or one.finish_reason or "error" for one in found),
    }
    for name, at in (("queued_s", first.started_at), ("ttft_s", first.first_token_at)):
        if at is not None:
            said[name] = round(at - first.arrived, 4)
    return said


def _line(fields: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(fields)
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: Any) -> str:
    """As it is, or quoted where that would not be one word."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(" \"'=\\")
    return text if plain and text else json.dumps(text)
