"""The id that a client gives to its request, in the header X-Request-Id or in the body."""

import re

from fastapi import Request

from engine.server.problems import Problem
from engine.server.schemas import REQUEST_ID, Common


def id_of(request: Request, body: Common) -> str:
    """Empty when it gives none; the header comes first. Raises Problem."""
    given = request.headers.get("x-request-id")
    if given is not None and not re.fullmatch(REQUEST_ID, given):
        wanted = "1 to 256 visible characters of ASCII but / are wanted"
        raise Problem(400, f"X-Request-Id is {given[:256]!r}; {wanted}.")
    return given or body.request_id or ""
