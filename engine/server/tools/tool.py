"""Tools as clients describe them, and calls as they send them back, as pydantic models."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class Function(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; none where there are no arguments"""
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_an_object(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if parameters is not None and parameters.get("type", "object") != "object":
            raise ValueError("arguments are a JSON object, so their schema has type object")
        return parameters


class Tool(BaseModel):
    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """As chat templates take it."""
        return self.model_dump(exclude_none=True)

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        if self.function.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.function.parameters}


class ChosenName(BaseModel):
    name: Name


class Chosen(BaseModel):
    """The one tool that is to be called."""

    type: Literal["function"]
    function: ChosenName


Choice = Literal["none", "auto", "required"] | Chosen


class CalledFunction(BaseModel):
    name: str
    arguments: str = ""


class ToolCall(BaseModel):
    """A call of an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """As chat templates take it: with arguments as an object, if they are one."""
        arguments: Any = self.function.arguments or "{}"
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        function = {
            "name": self.function.name,
            "arguments": parsed if isinstance(parsed, dict) else arguments,
        }
        return {"id": self.id or "", "type": self.type, "function": function}
