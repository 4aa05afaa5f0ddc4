"""Turns: whose request comes next when several tenants wait. No I/O.

Each tenant has a count of the tokens it was served: a prompt's when it is admitted, then each of
its answer. Who has the lowest count comes next. A tenant that begins to wait starts no lower than
the one that was admitted last, so nobody saves up turns: while two both wait, neither is served
more than the other by more than the largest requests of both.
"""

from collections import Counter

from engine.scheduler.sequence import Sequence


class Turns:
    """``began_to_wait``, ``of``, ``admitted``, ``answered``."""

    def __init__(self) -> None:
        self._served: Counter[str] = Counter()
        self._level = 0
        """what the tenant that was admitted last had been served before"""

    def began_to_wait(self, tenant: str) -> None:
        """It has a request in the queue, and had none there."""
        self._served[tenant] = max(self._served[tenant], self._level)

    def of(self, waiting: Sequence) -> tuple[int, tuple[int, float, int]]:
        """The least has the next turn; of one tenant's, the oldest."""
        return self._served[waiting.request.tenant], waiting.seniority

    def admitted(self, sequence: Sequence) -> None:
        """Its memory was found; one that starts over has been counted."""
        if not sequence.counted:
            sequence.counted = True
            self._level = max(self._level, self._served[sequence.request.tenant])
            self._served[sequence.request.tenant] += len(sequence.token_ids)

    def answered(self, tenant: str, num_tokens: int = 1) -> None:
        """More tokens of an answer."""
        self._served[tenant] += num_tokens
