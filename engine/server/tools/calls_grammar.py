"""CallsGrammar: answers that call tools, in llguidance's Lark; arguments match their schemas."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from engine.server.json_schema import inline
from engine.server.tools.formats import ToolFormat
from engine.server.tools.tool import Tool

MAX_CALLS = 32
"""in one answer"""


class CallsGrammar:
    """Grammars over the same tools; no more than one call unless ``parallel``."""

    def __init__(
        self,
        form: ToolFormat,
        tools: Sequence[Tool],
        *,
        token_id: Callable[[str], int | None],
        parallel: bool,
    ) -> None:
        """``token_id`` tells whether a marker is a token: as text it would be something else."""
        self._form, self._token_id, self.parallel = form, token_id, parallel
        self._head = form.all_calls[0] + form.each_call[0]
        """stands before the first call"""
        again = self._text(form.between + form.each_call[0])
        behind = self._text(form.each_call[1])
        more = f"({again} call {behind}){{0,{MAX_CALLS - 1}}}" if parallel else ""
        self._rules = [
            f"calls: call {behind} {more} {self._text(form.all_calls[1])}",
            "call: " + " | ".join(f"call_{number}" for number in range(len(tools))),
        ]
        for number, tool in enumerate(tools):
            begin = f'{{"name": {json.dumps(tool.function.name)}, "{form.key}": '
            self._rules += [
                f'call_{number}: {json.dumps(begin)} arguments_{number} "}}"',
                f"arguments_{number}: {inline(tool.schema_of_arguments)}",
            ]

    def only(self) -> str:
        """At least one call and nothing else."""
        return self._grammar(f"{self._text(self._head)} calls")

    def or_json(self, schema: dict[str, Any]) -> str:
        """Calls, or JSON of this schema."""
        start = f"{self._text(self._head)} calls | content"
        return self._grammar(start, f"content: {inline(schema)}")

    def within_text(self) -> str:
        """Any text; when it comes to calls they are valid, and the last thing said."""
        marker = self._form.marks.begin
        if self._form.marks.at_start:
            return self._grammar("calls | TEXT", r"TEXT: /([^{\s](.|\n)*)?/")
        if self._token_id(marker) is not None:
            start = f"TEXT ({self._text(self._head)} calls)?"
            return self._grammar(start, r"TEXT: /(.|\n)*/")
        start = f"TEXT | marked {self._text(self._head.removeprefix(marker))} calls"
        marked = rf"marked[lazy]: /(.|\n)*/ {json.dumps(marker)}"
        return self._grammar(start, r"TEXT: /(.|\n)*/", marked)

    def _grammar(self, start: str, *rules: str) -> str:
        return "\n".join([f"start: {start}", *self._rules, *rules])

    def _text(self, written: str) -> str:
        """As it stands, but for markers that are tokens."""
        for marker in (self._form.marks.begin, self._form.marks.end):
            token = self._token_id(marker) if marker and marker in written else None
            if token is not None:
                before, _, behind = written.partition(marker)
                return f"{self._text(before)} <[{token}]> {self._text(behind)}"
        return json.dumps(written) if written else ""
