"""Affinity: where this gateway has sent prompts with the same beginning. No I/O.

A guess at what the instances have cached: who gets a prompt that begins alike has to compute less.
"""

from collections.abc import Sequence
from itertools import pairwise

from engine.memory.blocks import chain_hash, root_of

FIRST_TOKENS = 32
"""shorter beginnings are not worth a thought; each next one that is remembered is twice as long"""
MAX_BEGINNINGS = 1 << 14

Beginnings = list[tuple[bytes, int]]
"""of a prompt: hash and length of each"""


class Affinity:
    """The instance that was sent each beginning last; the longest unused are forgotten."""

    def __init__(self) -> None:
        self._sent: dict[bytes, int] = {}

    def note(self, beginnings: Beginnings, instance: int) -> None:
        """The prompt was sent there."""
        for content, _ in beginnings:
            self._sent.pop(content, None)
            self._sent[content] = instance
        while len(self._sent) > MAX_BEGINNINGS:
            del self._sent[next(iter(self._sent))]

    def find(self, beginnings: Beginnings) -> dict[int, int]:
        """Instance -> how many of the prompt's first tokens it is likely to have cached."""
        found: dict[int, int] = {}
        for content, num_tokens in beginnings:
            if content in self._sent:
                found[self._sent[content]] = num_tokens
        return found


def beginnings_of(prompt_ids: Sequence[int], cache_salt: str) -> Beginnings:
    """Of some lengths; to hash them takes longer than all else about them."""
    ends = [0]
    while (end := max(FIRST_TOKENS, 2 * ends[-1])) <= len(prompt_ids):
        ends.append(end)
    found, parent = [], root_of(cache_salt)
    for first, end in pairwise(ends):
        parent = chain_hash(parent, prompt_ids[first:end])
        found.append((parent, end))
    return found
