"""Tool calls in the shapes of the OpenAI API: whole, and as the deltas of a stream."""

from collections.abc import Sequence
from typing import Any

from engine.server.tools.call import CallPiece
from engine.server.tools.formats import ToolFormat


def whole_calls(pieces: Sequence[CallPiece], form: ToolFormat, answer: str) -> list[dict[str, Any]]:
    """``message.tool_calls``."""
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.name is not None:
            calls.append(_call(piece, form, answer))
        else:
            calls[piece.index]["function"]["arguments"] += piece.arguments
    return calls


def call_deltas(pieces: Sequence[CallPiece], form: ToolFormat, answer: str) -> list[dict[str, Any]]:
    """``delta.tool_calls``: id and name come with a call's first piece only."""
    return [
        {"index": piece.index, **_call(piece, form, answer)}
        if piece.name is not None
        else {"index": piece.index, "function": {"arguments": piece.arguments}}
        for piece in pieces
    ]


def _call(piece: CallPiece, form: ToolFormat, answer: str) -> dict[str, Any]:
    return {
        "id": form.call_id(answer, piece.index),
        "type": "function",
        "function": {"name": piece.name, "arguments": piece.arguments},
    }
