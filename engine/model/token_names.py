"""TokenNames: single tokens as text and as bytes, for logprobs. No torch."""

from __future__ import annotations

import json
import re
from functools import lru_cache

import tokenizers

BYTE = re.compile("<0x([0-9A-F]{2})>")
SPACE = "\u2581"
"""what vocabularies of SentencePiece write for it"""


class TokenNames:
    """Of one tokenizer. A token may be a part of a character only."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        parts = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
        state = json.dumps(parts, ensure_ascii=False)
        self._is_byte_level, self._has_spaces = '"ByteLevel"' in state, SPACE in state
        self._added = set(backend.get_added_tokens_decoder())
        self.bytes = lru_cache(maxsize=1 << 16)(self._bytes)

    def text(self, token_id: int) -> str:
        """Replacement characters stand for parts of characters."""
        return self.bytes(token_id).decode("utf-8", errors="replace")

    def of_all(self, num_tokens: int) -> list[bytes]:
        """The bytes of the tokens from 0 on; they are not kept."""
        return [self._bytes(token_id) for token_id in range(num_tokens)]

    def _bytes(self, token_id: int) -> bytes:
        """Empty for an id that the vocabulary does not have."""
        piece = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._is_byte_level and token_id not in self._added:
            letters = _byte_of_letter()
            if all(letter in letters for letter in piece):
                return bytes(letters[letter] for letter in piece)
        if found := BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return (piece.replace(SPACE, " ") if self._has_spaces else piece).encode()


@lru_cache(maxsize=1)
def _byte_of_letter() -> dict[str, int]:
    """The alphabet of byte-level vocabularies: printable bytes as they are, others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}
