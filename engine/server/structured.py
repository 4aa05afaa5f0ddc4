"""Structured outputs as clients ask for them, and the grammars that they mean."""

import json
from typing import Annotated, Any, Literal

from llguidance import LLMatcher, grammar_from
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.server.json_schema import grammar_of_schema

Schema = dict[str, Any]


class NamedSchema(BaseModel):
    """``strict`` makes no difference: a schema is always kept."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class TextFormat(BaseModel):
    type: Literal["text"]


class ObjectFormat(BaseModel):
    type: Literal["json_object"]


class SchemaFormat(BaseModel):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class StructuredOutputs(BaseModel):
    """One of them: vLLM's names."""

    model_config = ConfigDict(extra="forbid")

    json_: Annotated[Schema | str | None, Field(alias="json")] = None
    json_object: bool = False
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None
    """Lark, or GBNF as llama.cpp has it"""

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        given = [self.json_, self.json_object or None, self.regex, self.choice, self.grammar]
        if len([one for one in given if one is not None]) != 1:
            raise ValueError("give one of json, json_object, regex, choice and grammar")
        return self


def schema_of(wanted: ResponseFormat | StructuredOutputs | None) -> Schema | None:
    """The JSON schema that is wanted, if it is one. Raises ValueError."""
    match wanted:
        case ObjectFormat():
            return {"type": "object"}
        case SchemaFormat():
            return wanted.json_schema.schema_
        case StructuredOutputs(json_object=True):
            return {"type": "object"}
        case StructuredOutputs(json_=dict(schema)):
            return schema
        case StructuredOutputs(json_=str(text)):
            schema = json.loads(text)
            if not isinstance(schema, dict):
                raise ValueError("structured_outputs.json is not a JSON schema, an object")
            return schema
    return None


def grammar_of(wanted: ResponseFormat | StructuredOutputs | None) -> str:
    """The grammar that is wanted; empty where any text will do. Raises ValueError."""
    schema = schema_of(wanted)
    if schema is not None:
        return grammar_of_schema(schema)
    match wanted:
        case StructuredOutputs(regex=str(regex)):
            return LLMatcher.grammar_from_regex(regex)
        case StructuredOutputs(choice=list(choices)):
            return "start: " + " | ".join(json.dumps(choice) for choice in choices)
        case StructuredOutputs(grammar=str(text)):
            return grammar_from("grammar", text)
    return ""
