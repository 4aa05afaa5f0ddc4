"""Model: the fake one. It writes, for each position, the key of the prefix up to it."""

from collections.abc import Callable

from engine.core import Plan
from engine.sim.truth import EOS, Keys, SimMemory, next_token


class Model:
    """One life of a step: the keys of its sequences, by number."""

    def __init__(
        self, memory: SimMemory, block_tokens: int, tokens_of: Callable[[int], list[int]]
    ) -> None:
        self._memory = memory
        self._block_tokens = block_tokens
        self._tokens_of = tokens_of
        self._keys: dict[int, Keys] = {}

    def keys_of(self, number: int) -> list[int]:
        return self._keys.setdefault(number, Keys()).of(self._tokens_of(number))

    def forget(self, number: int) -> None:
        self._keys.pop(number, None)

    def run(self, plan: Plan, poisoned: frozenset[int]) -> dict[int, int]:
        """Write the step's keys; the tokens it samples, by the index of their span."""
        for span in plan.spans:
            keys = self.keys_of(span.sequence)
            for position in range(span.first_position, span.first_position + span.num_rows):
                block = self._memory.keys[span.table[position // self._block_tokens].block]
                is_wrong = span.sequence in poisoned
                block[position % self._block_tokens] = -3 if is_wrong else keys[position]
        next_ids = {}
        for index in plan.sampled:
            span = plan.spans[index]
            key = self.keys_of(span.sequence)[span.first_position + span.num_rows - 1]
            next_ids[index] = EOS if span.sequence in poisoned else next_token(key)
        return next_ids
