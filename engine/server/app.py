"""The HTTP routes of a gateway: the OpenAI API, health and metrics."""

import asyncio
import contextlib
import os
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from engine import __version__
from engine.model.tokenizer import Tokenizer
from engine.protocol import Member
from engine.server import explanation
from engine.server.access_log import AccessLog
from engine.server.api_keys import NO_KEYS, ApiKeys, Tenant
from engine.server.auth import Auth
from engine.server.body_limit import BodyLimit
from engine.server.choices import MAX_RESUMED, Choices, choices_of, is_resumable, told_of
from engine.server.completions import Completions
from engine.server.drain import Drain
from engine.server.gateway import Gateway
from engine.server.metrics import Metrics
from engine.server.openapi import REFUSALS, STREAMS
from engine.server.page import build_router
from engine.server.problems import Problem, error_body
from engine.server.request_ids import id_of
from engine.server.schemas import ChatBody, CompletionBody
from engine.server.teller import Teller
from engine.server.tokenize import add_tokenize_routes
from engine.server.tracing import Tracing


def build_app(
    gateway: Gateway,
    completions: Completions,
    teller: Teller,
    metrics: Metrics,
    *,
    model: str,
    max_positions: int,
    max_body_bytes: int,
    tokenizer: Tokenizer,
    idle_s: float = 60.0,
    keys: ApiKeys = NO_KEYS,
    write_log: Callable[[str], None] | None = None,
    log_as_json: bool = False,
    drain: Drain | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application; the gateway is pumped while it lives, until it is drained."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(gateway.run())]
        if drain is not None:
            tasks.append(asyncio.create_task(drain.run()))
        for task in tasks:
            task.add_done_callback(_end_with)
        yield
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        gateway.close()

    app = FastAPI(title="LendKV", version=__version__, lifespan=lifespan, responses=REFUSALS)
    created = int(time.time())

    app.add_middleware(BodyLimit, max_bytes=max_body_bytes, idle_s=idle_s)
    app.add_middleware(Auth, keys=keys)  # before it, as the last one added comes first
    app.add_middleware(AccessLog, as_json=log_as_json, write=write_log)

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = dict(error.errors()[0])
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = str(first["msg"]).removeprefix("Value error, ")
        text = f"{where}: {said}" if where else said
        return JSONResponse(error_body(400, text, param=where or None), 400)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code)

    async def answer(
        request: Request, body: ChatBody | CompletionBody, last_event_id: str | None
    ) -> Response:
        if last_event_id and body.stream:
            return resume(last_event_id, request.state.tenant)
        request_id = id_of(request, body)
        choices = await completions.accept(body, request.state.tenant, request_id)
        request.state.entries.extend(choices.entries)
        if tracing is not None:
            tracing.accepted(choices.names, request.headers)
        headers = {"X-Request-Id": choices.request_id.partition("-")[2]}
        if not body.stream:
            whole = await teller.whole(choices, request.is_disconnected)
            return JSONResponse(whole, headers=headers)
        await teller.first_token(choices, request.is_disconnected)
        return events(choices, headers=headers)

    def resume(last_event_id: str, tenant: Tenant) -> Response:
        name, told = told_of(last_event_id)
        choices = choices_of(name, gateway.table.entries, gateway.terms)
        is_own = choices is not None and choices.entries[0].request.tenant == tenant.name
        if choices is None or not is_own:
            raise Problem(404, f"There is no stream to resume at {last_event_id!r}.")
        num_choices = len(choices.entries)
        if not is_resumable(num_choices):
            text = f"A stream of more than {MAX_RESUMED} choices cannot be resumed; this one has "
            raise Problem(400, f"{text}{num_choices}. Send the request again.")
        told = told * num_choices if told == [-1] else told
        if len(told) != num_choices:
            raise Problem(404, f"There is no stream to resume at {last_event_id!r}.")
        return events(choices, told)

    def events(
        choices: Choices, told: Sequence[int] = (), headers: dict[str, str] | None = None
    ) -> Response:
        return _Events(teller.stream(choices, told), teller.attend(choices), headers or {})

    @app.post("/v1/chat/completions", responses=STREAMS)
    async def chat_completions(
        request: Request, body: ChatBody, last_event_id: str | None = Header(default=None)
    ) -> Response:
        return await answer(request, body, last_event_id)

    @app.post("/v1/completions", responses=STREAMS)
    async def plain_completions(
        request: Request, body: CompletionBody, last_event_id: str | None = Header(default=None)
    ) -> Response:
        return await answer(request, body, last_event_id)

    @app.get("/v1/streams/{request_id}", responses=STREAMS, response_class=StreamingResponse)
    async def stream_again(
        request: Request, request_id: str, last_event_id: str | None = Header(default=None)
    ) -> Response:
        """Follow a request's stream from behind ``Last-Event-ID``, or from its beginning."""
        return resume(last_event_id or f"{request_id}:-1", request.state.tenant)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {
            "id": model,
            "object": "model",
            "created": created,
            "owned_by": "lendkv",
            "max_model_len": max_positions,
        }
        return {"object": "list", "data": [card]}

    @app.get("/health", responses={503: {"description": "No instance can take requests yet"}})
    async def health() -> Response:
        """200 while an instance can take requests, though the gateway may not: see /ready."""
        body = {"instances": [_card(member) for member in gateway.members]}
        return JSONResponse(body, 200 if gateway.ready else 503)

    @app.get("/ready")
    async def ready() -> Response:
        """200 while requests are taken: a balancer sends to others else."""
        takes = gateway.ready and gateway.closes_at is None
        return JSONResponse({"ready": takes}, 200 if takes else 503)

    @app.get("/cluster")
    async def cluster() -> dict[str, Any]:
        """Instances, loans as both sides know them, requests and where their contexts lie."""
        return await gateway.overview()

    add_tokenize_routes(app, completions, tokenizer, max_positions=max_positions)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def scrape() -> Response:
        view = await gateway.views.look()
        return PlainTextResponse(metrics.text(gateway.table, gateway.members, view))

    app.include_router(explanation.build_router(gateway))
    app.include_router(build_router(gateway))
    return app


class _Events(StreamingResponse):
    """A stream that is attended until it is told, or its client is gone before it began."""

    def __init__(
        self,
        chunks: AsyncIterator[str],
        attended: contextlib.AbstractContextManager[None],
        headers: dict[str, str],
    ) -> None:
        headers = {"Cache-Control": "no-cache", **headers}
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self._attended = attended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._attended:
            await super().__call__(scope, receive, send)


def _end_with(task: "asyncio.Task[None]") -> None:
    """Without its pump a gateway is deaf: its supervisor starts another one."""
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error)
        os._exit(1)


def _card(member: Member) -> dict[str, Any]:
    return {
        "instance": member.instance,
        "ready": bool(member.step_address),
        "blocks": member.num_blocks,
        "free": member.num_free,
        "lent": member.num_lent,
        "epoch": member.epoch,
    }
