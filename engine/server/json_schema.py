"""JSON schemas as grammars: llguidance's options, the same everywhere. Strict: nothing is ignored.

Between JSON's tokens there is one blank, or one line break with its indentation, or nothing: a weak
model could otherwise spend its whole answer on whitespace.
"""

import json
from typing import Any

OPTIONS = {"lenient": False, "whitespace_pattern": r"[ ]?|\n[ ]{0,32}"}


def inline(schema: dict[str, Any]) -> str:
    """In a Lark grammar."""
    return f"%json {_with_options(schema)}"


def grammar_of_schema(schema: dict[str, Any]) -> str:
    return json.dumps({"grammars": [{"json_schema": schema | {"x-guidance": OPTIONS}}]})


def _with_options(schema: dict[str, Any]) -> str:
    return json.dumps(schema | {"x-guidance": OPTIONS})
