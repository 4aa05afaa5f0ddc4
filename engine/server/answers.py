"""The shapes of answers: whole objects, streamed chunks and their server-sent events."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.server.tools.call import CallPiece
from engine.server.tools.formats import ToolFormat
from engine.server.tools.told import call_deltas, whole_calls


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """of the prompt: their keys were found, not computed"""

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What is told of one choice at once: some of it, or all."""

    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """the stop string or stop token that ended it, as vLLM says it"""
    token_ids: Sequence[int] = ()
    logprobs: dict[str, Any] | None = None
    calls: Sequence[CallPiece] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """One choice's answers: chat or plain completion.

    With ``prompt_ids`` they carry token ids, in vLLM's places: ``token_ids`` in each choice, and
    once ``prompt_token_ids``, beside the choices of a chat and in the choice of a completion.
    """

    request_id: str
    model: str
    created: int
    chat: bool
    prompt_ids: Sequence[int] | None = None
    index: int = 0
    tools: ToolFormat | None = None
    """how its tool calls are written"""

    def whole(self, piece: Piece, prompt_logprobs: list[Any] | None = None) -> dict[str, Any]:
        choice = self._choice(piece)
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": piece.text}
            if self.tools and piece.calls:
                message["content"] = piece.text or None
                message["tool_calls"] = whole_calls(piece.calls, self.tools, self._call_name)
            choice["message"] = message
        else:
            choice["text"] = piece.text
        kind = "chat.completion" if self.chat else "text_completion"
        body = self._body(kind, choice, piece.token_ids, first=True)
        if prompt_logprobs is not None:
            (body if self.chat else choice)["prompt_logprobs"] = prompt_logprobs
        return body

    def chunk(self, piece: Piece, *, first: bool = False) -> dict[str, Any]:
        """A piece of the answer; the first chat chunk names the role."""
        choice = self._choice(piece)
        if self.chat:
            delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
            if piece.text:
                delta["content"] = piece.text
            if self.tools and piece.calls:
                delta["tool_calls"] = call_deltas(piece.calls, self.tools, self._call_name)
            choice["delta"] = delta
        else:
            choice["text"] = piece.text
        return self._body(self._chunk_kind, choice, piece.token_ids, first=first)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last chunk when usage was asked for: no choices."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": usage.body()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    @property
    def _call_name(self) -> str:
        """What the ids of its calls are made from."""
        return f"{self.request_id}/{self.index}"

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": self.index,
            "finish_reason": piece.finish_reason,
            "stop_reason": piece.stop_reason,
            "logprobs": piece.logprobs,
        }

    def _body(
        self, kind: str, choice: dict[str, Any], token_ids: Sequence[int], *, first: bool
    ) -> dict[str, Any]:
        body = {**self._head(kind), "choices": [choice]}
        if self.prompt_ids is not None:
            choice["token_ids"] = list(token_ids)
            if first:
                (body if self.chat else choice)["prompt_token_ids"] = list(self.prompt_ids)
        return body

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.request_id, "object": kind, "created": self.created, "model": self.model}


def finish_reason(reason: str, is_calling: bool) -> str:
    """As clients are told it: an answer that stops behind tool calls stops for them."""
    return "tool_calls" if is_calling and reason == "stop" else reason


def event(body: dict[str, Any], event_id: str = "") -> str:
    """One server-sent event; ``event_id`` is what ``Last-Event-ID`` brings back."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}data: {json.dumps(body, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
