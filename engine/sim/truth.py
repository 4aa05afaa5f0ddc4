"""Truth: what keys must be, and what the fake model says. All are functions of the tokens alone."""

import zlib
from functools import lru_cache

from engine.core import BlockLayout, Request

VOCABULARY = 97
EOS = 0


def layout_of(tokens: int) -> BlockLayout:
    """The smallest layout with so many tokens to a block; nobody has bytes here."""
    return BlockLayout(layers=1, kv_heads=1, head_dim=1, tokens=tokens, dtype="float32")


class Keys:
    """Keys of a token sequence: each names the whole prefix up to it, and the salt before it."""

    def __init__(self, cache_salt: str) -> None:
        self._first = zlib.crc32(cache_salt.encode()) + 17
        self._keys: list[int] = []

    def of(self, tokens: list[int]) -> list[int]:
        """The key at each position; tokens only ever grow at the end."""
        for at in range(len(self._keys), len(tokens)):
            before = self._keys[-1] if at else self._first
            self._keys.append((before * 1_000_003 + tokens[at] + 1) % (1 << 61))
        return self._keys


def next_token(key: int) -> int:
    """What the model says behind the prefix with this key; seldom the end."""
    return 1 + key // 7 % (VOCABULARY - 1) if key % 61 else EOS


@lru_cache(maxsize=4096)
def answer_to(request: Request) -> tuple[int, ...]:
    """All that a client must get."""
    tokens, keys = list(request.prompt_ids), Keys(request.cache_salt)
    answer: list[int] = []
    while len(answer) < request.sampling.max_tokens:
        answer.append(next_token(keys.of(tokens)[-1]))
        tokens.append(answer[-1])
        if answer[-1] == EOS:
            break
    return tuple(answer)


class SimMemory:
    """Per block the keys that were last written, in place of bytes."""

    def __init__(self, layout: BlockLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self.keys: list[list[int]] = [[-1] * layout.tokens for _ in range(num_blocks)]
        self._generations = [0] * num_blocks

    def generation(self, block: int) -> int:
        return self._generations[block]

    def bump(self, block: int) -> None:
        """Somebody else's from now on: whoever still reads it must notice."""
        self._generations[block] += 1
        self.keys[block] = [-2] * self.layout.tokens
