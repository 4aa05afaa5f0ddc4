"""Model: the fake one. It writes, for each position, the key of the prefix up to it."""

from engine.core import Plan
from engine.scheduler.roster import Roster
from engine.sim.truth import EOS, Keys, SimMemory, next_token


class Model:
    """One life of a step: the keys of its sequences, by number."""

    def __init__(self, memory: SimMemory, block_tokens: int, roster: Roster) -> None:
        self._memory = memory
        self._block_tokens = block_tokens
        self._roster = roster
        self._keys: dict[int, Keys] = {}

    def keys_of(self, number: int) -> list[int]:
        sequence = next(one for one in self._roster.all() if one.number == number)
        if number not in self._keys:
            self._keys[number] = Keys(sequence.request.cache_salt)
        return self._keys[number].of(sequence.token_ids)

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
