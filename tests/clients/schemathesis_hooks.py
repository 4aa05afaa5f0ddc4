"""How schemathesis asks a tiny server: bodies that pass as far as the model, and short answers.

Runs in the clients' venv. What is drawn for ``model`` would nearly always be refused first.
"""

import schemathesis

MAX_TOKENS = 6


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        if isinstance(body.get("model"), str):
            body["model"] = "tiny"
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(name), int | float) and body[name] > MAX_TOKENS:
                body[name] = MAX_TOKENS
        if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
            body["max_tokens"] = MAX_TOKENS
    return body


@schemathesis.check
def no_error_within_a_stream(context, response, case):
    """A stream's status is sent before its end is known."""
    text = response.content.decode(errors="replace")
    assert '"server_error"' not in text, text
