"""Random prompts of a wanted number of tokens."""

from collections.abc import Sequence

import numpy as np

from engine.errors import ConfigError
from engine.model.tokenizer import Tokenizer

NUM_ROUNDS = 10


class Words:
    """Tokens that stay what they are when their texts stand side by side."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        pairs = [[token, token] for token in range(self._backend.get_vocab_size())]
        texts = self._backend.decode_batch(pairs)
        again = self._backend.encode_batch(texts, add_special_tokens=False)
        stable = [
            (pair[0], text)
            for pair, text, encoded in zip(pairs, texts, again, strict=True)
            if encoded.ids == pair and text.isascii() and text.isprintable()
        ]
        # Whatever follows, a tokenizer begins anew at a space.
        apart = [token for token, text in stable if " " in text.strip()]
        self._tokens = np.array(apart or [token for token, _ in stable], dtype=np.int64)
        if not len(self._tokens):
            raise ConfigError("the tokenizer has no printable tokens to make prompts of")

    def draw(self, number: int, rng: np.random.Generator) -> list[int]:
        return [int(token) for token in rng.choice(self._tokens, number)]

    def text(self, ids: Sequence[int], rng: np.random.Generator) -> tuple[str, int]:
        """Text of these tokens, and how many it has: so many, unless the tokenizer joins some
        whatever is put in their place.
        """
        wanted, kept = len(ids), list(ids)
        for _ in range(NUM_ROUNDS):
            text = self._backend.decode(kept)
            kept = self._backend.encode(text, add_special_tokens=False).ids
            if len(kept) == wanted:
                break
            kept = kept[:wanted] + self.draw(max(0, wanted - len(kept)), rng)
        return text, len(kept)
