"""Call: one tool call as a model writes it, ``{"name": ..., "arguments": {...}}``, as it comes.

The name is told as soon as it is known to be a tool's, then the arguments piece by piece. What has
not been told is never lost: a text that turns out to be no call is given back.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

SPACE = " \t\r\n"
KEYS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class CallPiece:
    """News of the answer's call number ``index``; ``name`` only at its beginning."""

    index: int
    name: str | None = None
    arguments: str = ""


class Call:
    """``push`` text until ``closed`` or ``failed``."""

    def __init__(self, index: int, names: Collection[str]) -> None:
        self._index, self._names = index, names
        self.raw = ""
        """all text that it took"""
        self.told = False
        self.closed = False
        self.failed = False
        """it is no call; nothing of it has been told"""
        self._name = ""
        self._depth = 0
        self._in_string = self._escaped = False
        self._member = ""
        """text of the current key, or value, of the outermost object"""
        self._key: str | None = None
        """None while a key is read"""
        self._arguments = ""
        """read and not told"""
        self._whole = False
        """the arguments are complete"""

    def push(self, text: str) -> tuple[int, list[CallPiece]]:
        """How many characters it took, and what is new."""
        for used, char in enumerate(text):
            if self._whole and not self._goes_on(char):
                self.closed = True  # a brace was forgotten
            if self.closed or self.failed:
                return used, self._tell()
            self.raw += char
            self._take(char)
        return len(text), self._tell()

    def _goes_on(self, char: str) -> bool:
        """It can stand behind the arguments."""
        return self._key not in KEYS or char in SPACE or char in ",}"

    def _take(self, char: str) -> None:
        was_outside = self._depth == 1 and not self._in_string
        if self._in_string:
            if self._escaped or char != '"':
                self._escaped = char == "\\" and not self._escaped
            else:
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
            if self._depth == 1:
                self.failed = char != "{"
                return
        elif char in "}]":
            self._depth -= 1
        if not self._depth:
            self.failed = not self._end_member() or char != "}"
            self.failed = (self.failed or not self._name) and not self.told
            self.closed = not self.failed
        elif was_outside and char == ":" and self._key is None:
            key = _string(self._member)
            self._key, self._member = key, ""
            self.failed = key is None and not self.told
        elif was_outside and char == ",":
            self.failed = not self._end_member() and not self.told
        else:
            self._add(char)

    def _add(self, char: str) -> None:
        self._member += char
        if self._key not in KEYS or self._whole:
            return
        if not self._arguments and not self.told and char in SPACE:
            return
        if not self._arguments and not self.told and char != "{":
            self.failed = True
            return
        self._arguments += char
        self._whole = self._depth == 1

    def _end_member(self) -> bool:
        """The outermost object's key and value are complete; False when they make no call."""
        member, key = self._member, self._key
        self._member, self._key = "", None
        if key is None:
            return not member.strip(SPACE)
        if key == "name" and not self._name:
            name = _string(member)
            self._name = name if name is not None and name in self._names else ""
            return bool(self._name)
        return True

    def _tell(self) -> list[CallPiece]:
        if not self._name or self.failed or not (self._arguments or self.closed):
            return []
        piece, name = self._arguments, None if self.told else self._name
        if name is not None and not piece:
            piece = "{}"
        if name is None and not piece:
            return []
        self.told, self._arguments = True, ""
        return [CallPiece(self._index, name, piece)]


def _string(text: str) -> str | None:
    """The JSON string that the text is."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
