"""What the OpenAPI document says beyond the routes' signatures: refusals, and streams."""

from typing import Any

from pydantic import BaseModel


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    error: ErrorObject


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "Refused; the message says why"},
    "5XX": {"model": Refusal, "description": "Not now, or not at all; the message says which"},
}
"""for every route; without it FastAPI would promise its own 422, which is never sent"""

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "properties": {"id": {"type": "string"}, "data": {"type": "string"}},
                    "required": ["data"],
                }
            }
        },
    }
}
STREAMS: dict[int | str, dict[str, Any]] = {
    200: EVENTS[200] | {"description": "One object, or with stream=true events up to [DONE]"}
}
