"""CallParser: an answer's text, as it comes, into content and tool calls.

In front of calls models write a marker, between them some glue; neither is told. All other text is
content, also what only begins like a call. Whitespace between content and calls is dropped.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from engine.server.tools.call import SPACE, Call, CallPiece


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What surrounds calls."""

    begin: str
    """behind it come calls"""
    end: str = ""
    """behind it comes content again"""
    glue: str = ""
    """characters that may stand before, between and behind calls, as whitespace may"""
    at_start: bool = False
    """an answer may begin with a call without a marker"""


@dataclass(slots=True)
class Said:
    """What a piece of an answer tells."""

    content: str = ""
    calls: list[CallPiece] = field(default_factory=list)

    def __add__(self, other: "Said") -> "Said":
        return Said(self.content + other.content, self.calls + other.calls)

    def __bool__(self) -> bool:
        return bool(self.content or self.calls)


class AllContent:
    """The parser of an answer that calls no tools."""

    def push(self, text: str) -> Said:
        return Said(text)

    def flush(self) -> Said:
        return Said()


class CallParser:
    """``push`` text and tell what it returns; ``flush`` at the end."""

    def __init__(self, marks: Marks, names: Collection[str]) -> None:
        """``names`` are those of the tools; calls of others are content."""
        self._marks, self._names = marks, names
        self._text = ""
        """to be understood yet"""
        self._in_calls = marks.at_start
        self._held = ""
        """marker and glue: content again if no call follows"""
        self._is_first = True
        """no call came since the marker"""
        self._call: Call | None = None
        self.num_calls = 0

    def push(self, text: str) -> Said:
        said = Said()
        self._text += text
        while self._text and self._advance(said):
            pass
        return said

    def flush(self) -> Said:
        """The answer is over: what was held back because a call could have come of it."""
        said = Said()
        if self._call is not None:
            said.content = "" if self._call.told else self._held + self._call.raw
        elif not self._in_calls:
            said.content = self._text if self._text.strip(SPACE) or not self.num_calls else ""
        elif self._is_first:
            said.content = self._held + self._text
        return said

    def _advance(self, said: Said) -> bool:
        """Understand some of the text; False when there must be more of it first."""
        if self._call is not None:
            return self._read_call(self._call, said)
        return self._read_glue(said) if self._in_calls else self._read_content(said)

    def _read_content(self, said: Said) -> bool:
        at = self._text.find(self._marks.begin)
        if at >= 0:
            content = self._text[:at].rstrip(SPACE)
            said.content += content
            self._text = self._text[len(content) :]
            self._in_calls = self._is_first = True
            return True
        rest = _overlap(self._text, self._marks.begin)
        content = self._text[: len(self._text) - rest].rstrip(SPACE)
        said.content += content
        self._text = self._text[len(content) :]
        return False

    def _read_glue(self, said: Said) -> bool:
        text, marks = self._text, self._marks
        if text[0] == "{":
            self._call = Call(self.num_calls, self._names)
        elif text.startswith(marks.begin):
            self._hold(len(marks.begin))
        elif marks.end and text.startswith(marks.end) and not self._is_first:
            self._held, self._text = "", text[len(marks.end) :]
            self._in_calls = False
        elif any(mark.startswith(text) for mark in (marks.begin, marks.end)):
            return False
        elif text[0] in SPACE or text[0] in marks.glue:
            self._hold(1)
        else:
            self._give_back(said, self._held if self._is_first else "")
        return True

    def _read_call(self, call: Call, said: Said) -> bool:
        used, pieces = call.push(self._text)
        self._text = self._text[used:]
        said.calls += pieces
        if call.failed:
            self._give_back(said, self._held + call.raw)
        elif call.closed:
            self._call, self._held, self._is_first = None, "", False
            self.num_calls += 1
        return True

    def _hold(self, num_chars: int) -> None:
        self._held += self._text[:num_chars]
        self._text = self._text[num_chars:]

    def _give_back(self, said: Said, text: str) -> None:
        """What was held is no call, nor is what follows."""
        said.content += text
        self._held, self._call, self._in_calls = "", None, False


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of the text that begins the marker."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
