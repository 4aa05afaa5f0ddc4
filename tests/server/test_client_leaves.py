"""A client that leaves while its request still waits for memory gives up its place."""

import asyncio
import json

import pytest
from instant import InstantGateway, build


class SilentGateway(InstantGateway):
    """Its steps never answer."""

    def submit(self, request, terms):
        self.terms[request.request_id] = terms
        return self.table.add(request, 0.0)


@pytest.mark.parametrize("choices", [{"prompt": "hi"}, {"prompt": ["a", "b"], "n": 2}])
@pytest.mark.parametrize("stream", [True, False])
def test_a_request_without_a_token_ends_with_its_client(stream, choices):
    gateway = SilentGateway()
    app = build(gateway)
    body = json.dumps({"model": "tiny", "stream": stream, **choices}).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    events = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return events.pop() if events else {"type": "http.disconnect"}

    async def send(message):
        pass

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    entries = gateway.table.entries.values()
    assert [entry.finish_reason for entry in entries] == ["abort"] * (4 if "n" in choices else 1)
