"""The formats in which models write tool calls, and which one a chat template wants."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from engine.model.chat import ChatTemplate
from engine.server.tools.parser import Marks


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """``all_calls[0] (each_call[0] CALL each_call[1]) between (...) ... all_calls[1]``.

    A CALL is ``{"name": NAME, key: ARGUMENTS}``.
    """

    name: str
    marks: Marks
    """what the parser goes by"""
    key: str = "arguments"
    all_calls: tuple[str, str] = ("", "")
    each_call: tuple[str, str] = ("", "")
    between: str
    id_start: str = "call_"
    id_digits: int = 24

    def marker_ids(self, token_id: Callable[[str], int | None]) -> list[int]:
        """Of the markers that are tokens."""
        ids = [token_id(marker) for marker in (self.marks.begin, self.marks.end) if marker]
        return [one for one in ids if one is not None]

    def call_id(self, answer: str, index: int) -> str:
        """Of an answer's call; the same one whenever it is told."""
        digits = hashlib.blake2b(f"{answer}/{index}".encode(), digest_size=16).hexdigest()
        return self.id_start + digits[: self.id_digits]


FORMATS = {
    one.name: one
    for one in (
        ToolFormat(
            name="hermes",
            marks=Marks(begin="<tool_call>", end="</tool_call>"),
            each_call=("<tool_call>\n", "\n</tool_call>"),
            between="\n",
        ),
        ToolFormat(
            name="llama3_json",
            marks=Marks(begin="<|python_tag|>", glue=";", at_start=True),
            key="parameters",
            between="; ",
        ),
        ToolFormat(
            name="mistral",
            marks=Marks(begin="[TOOL_CALLS]", glue="[],"),
            all_calls=("[TOOL_CALLS][", "]"),
            between=", ",
            id_start="",
            id_digits=9,  # its templates refuse others
        ),
    )
}


def format_of(template: ChatTemplate | None, wanted: str) -> ToolFormat | None:
    """The ``wanted`` one of FORMATS, or with "auto" the template's; None where there is none.

    A template that knows no tools is no hindrance: it is told of them in Hermes' words.
    """
    if template is None:
        return None
    if wanted != "auto":
        return FORMATS.get(wanted)
    if not template.knows_tools:
        return FORMATS["hermes"]
    source = template.source
    if "[TOOL_CALLS]" in source:  # with [ARGS] it is the later form, which is another one
        return None if "[ARGS]" in source else FORMATS["mistral"]
    if "<tool_call>" in source:  # Qwen3-Coder's holds XML
        return None if "<function=" in source else FORMATS["hermes"]
    if "<|python_tag|>" in source or '"parameters"' in source:
        return FORMATS["llama3_json"]
    return None
