"""Text to token ids and back, over the ``tokenizers`` library; streams and chats. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from engine.errors import CheckpointError
from engine.model.huggingface import read_json
from engine.model.tokenizer_gguf import byte_pair_tokenizer

if TYPE_CHECKING:
    from engine.model.chat import ChatTemplate

REPLACEMENT = "\ufffd"


class Tokenizer:
    """The tokenizer of one checkpoint."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        template: str | None,
        special_tokens: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """``template``: the source of a chat's, with variables ``special_tokens`` (bos_token ...).
        ``info``: what clients who make their own prompts want to know (see ``_info``)."""
        self.backend, self._source = backend, template
        self._special_tokens = dict(special_tokens or {})
        self.info = dict(info or {})

    @cached_property
    def template(self) -> ChatTemplate | None:
        """Raises CheckpointError where its source is invalid."""
        from engine.model.chat import ChatTemplate  # 4 MB that a step does not need

        return ChatTemplate(self._source, self._special_tokens) if self._source else None

    @classmethod
    def from_huggingface(cls, folder: Path) -> Tokenizer | None:
        """From tokenizer.json and the files around it; None when there is no tokenizer.json."""
        path = folder / "tokenizer.json"
        if not path.exists():
            return None
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every fault
            raise CheckpointError(f"{path} is not a valid tokenizer: {error}") from error
        settings: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).exists():
                settings |= read_json(folder / name)
        source = _template(folder, settings.get("chat_template"))
        special = {key: _content(v) for key, v in settings.items() if key.endswith("_token")}
        info = _info(settings.get("tokenizer_class"), special, source)
        return cls(backend, source, special, info)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the ``tokenizer.*`` keys of a GGUF file."""
        backend = byte_pair_tokenizer(metadata)
        special = {
            f"{name}_token": backend.id_to_token(metadata[f"tokenizer.ggml.{name}_token_id"])
            for name in ("bos", "eos")
            if f"tokenizer.ggml.{name}_token_id" in metadata
        }
        source = metadata.get("tokenizer.chat_template")
        return cls(backend, source, special, _info(None, special, source))

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the tokens that the model puts before one (BOS), if any."""
        return list(self.backend.encode(text).ids)

    def decode(self, ids: Iterable[int], keep: Collection[int] = ()) -> str:
        """Text of tokens; special tokens are left out, but for those to ``keep``."""
        if not keep:
            return str(self.backend.decode(list(ids)))
        kept = [token for token in ids if token in keep or token not in self.special_ids]
        return str(self.backend.decode(kept, skip_special_tokens=False))

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer.

        Raises CheckpointError without a chat template, ValueError when it refuses the messages.
        """
        if self.template is None:
            raise CheckpointError("this model has no chat template: send a prompt, not messages")
        return list(
            self.backend.encode(self.template.render(messages), add_special_tokens=False).ids
        )

    def stream(self, keep: Collection[int] = ()) -> TextStream:
        """A decoder for the tokens of one answer; ``keep`` as for ``decode``."""
        return TextStream(self, keep)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text, such as the end of an answer."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token for token, what in added.items() if what.special)


class TextStream:
    """Text of tokens as they come; all pieces joined are the text of all tokens.

    A character whose bytes are not all there yet is held back: it decodes to one to three
    replacement characters at the end.
    """

    def __init__(self, tokenizer: Tokenizer, keep: Collection[int] = ()) -> None:
        self._tokenizer, self._keep = tokenizer, keep
        self._ids: list[int] = []
        """since the last but one boundary of tokens and characters: decoders need the context"""
        self._boundary = 0
        self._num_sent = 0
        """characters of the text of ``_ids``"""

    def push(self, token_id: int) -> str:
        """The text that the token completes, perhaps none."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids, self._keep)
        num_whole = max(len(text.rstrip(REPLACEMENT)), len(text) - 3)
        piece = text[self._num_sent : num_whole]
        self._num_sent = max(self._num_sent, num_whole)
        if num_whole == len(text):
            self._ids = self._ids[self._boundary :]
            self._boundary = len(self._ids)
            self._num_sent = len(self._tokenizer.decode(self._ids, self._keep))
        return piece

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        piece = self._tokenizer.decode(self._ids, self._keep)[self._num_sent :]
        self._num_sent += len(piece)
        return piece


def _template(folder: Path, given: Any) -> str | None:
    """The chat template's source: of a file of its own, else what tokenizer_config.json has."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    if isinstance(given, list):  # named templates: [{"name": ..., "template": ...}]
        named = [one for one in given if isinstance(one, dict) and one.get("name") == "default"]
        given = named[0].get("template") if named else None
    if given is not None and not isinstance(given, str):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: chat_template is not a text")
    return given


def _info(kind: Any, special: Mapping[str, Any], template: Any) -> dict[str, Any]:
    """The keys of tokenizer_config.json that evaluation tools ask a server for."""
    return {
        "tokenizer_class": kind or "PreTrainedTokenizerFast",
        **{name: special.get(name) for name in ("bos_token", "eos_token", "pad_token")},
        **special,
        "chat_template": template,
    }


def _content(token: Any) -> Any:
    """A special token is a string or a table with its settings."""
    return token.get("content") if isinstance(token, dict) else token
