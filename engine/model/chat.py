"""Chat templates: Jinja of untrusted checkpoints, rendered in a sandbox. Knows no tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import CheckpointError

REFUSED = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
)
"""what a template may raise for messages or variables that it was not made for"""


class ChatTemplate:
    """A template compiled once; ``special_tokens`` (bos_token ...) are variables in it."""

    def __init__(self, source: str, special_tokens: Mapping[str, Any]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source
        try:
            self._template = environment.from_string(source)
            variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the checkpoint's chat template is invalid: {error}") from error
        self.knows_tools = "tools" in variables
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        begins_answer: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text, up to where the assistant answers.

        ``tools`` are told to it as the OpenAI API has them, if the template knows what they are.
        ``more``: variables that the template may know.

        Raises ValueError when the template refuses the messages (roles, order, missing content).
        """
        try:
            return self._template.render(
                {**self._special_tokens, **(more or {})},
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=begins_answer,
            )
        except REFUSED as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
