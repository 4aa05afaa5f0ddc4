"""StepWork: what a plan's rows attend to, at home and at each holder."""

from collections import Counter
from collections.abc import Collection

from engine.core import Plan, Span
from engine.scheduler.scheduler import Scheduler
from engine.sim.hardware.step_time import Keys, Work


class StepWork:
    """Of one instance. A long table is looked through only when one of its entries has moved."""

    def __init__(self, block_tokens: int) -> None:
        self._tokens = block_tokens
        self._lent: dict[int, tuple[int, dict[int, int]]] = {}
        """sequence -> the version of its table, and how many keys each holder has"""

    def forget(self, sequence: int) -> None:
        self._lent.pop(sequence, None)

    def of(self, plan: Plan, ready: Collection[int] = ()) -> Work:
        """Rows of the sequences that are ``ready`` are there without having been computed."""
        read = pairs = 0.0
        num_rows = own_rows = 0
        away: dict[int, list[float]] = {}
        for span in plan.spans:
            if span.sequence in ready:
                continue
            rows, first = span.num_rows, span.first_position
            num_rows += rows
            lent = self._lent_keys(span)
            own = first
            for holder, keys in lent.items():
                own -= keys
                at = away.setdefault(holder, [0, 0.0, 0.0])
                at[0] += rows
                at[1] += keys
                at[2] += rows * keys
            # each of the step's own rows sees those before it, and itself
            read += own + rows
            pairs += rows * (own + (rows + 1) / 2)
            own_rows += rows
        remote = {holder: Keys(int(rows), keys, of) for holder, (rows, keys, of) in away.items()}
        return Work(num_rows, len(plan.sampled), Keys(own_rows, read, pairs), remote)

    def _lent_keys(self, span: Span) -> dict[int, int]:
        """Keys at each holder; a hole's rows do not see those behind it."""
        known = self._lent.get(span.sequence)
        is_decode = span.num_rows == 1
        if known is not None and known[0] == span.table_version and is_decode:
            return known[1]
        counts = Counter(ref.instance for ref in span.table if ref.loan)
        lent = {holder: leaves * self._tokens for holder, leaves in counts.items()}
        if is_decode:
            self._lent[span.sequence] = (span.table_version, lent)
        return lent


def new_prompts(scheduler: Scheduler) -> set[int]:
    """Sequences whose prompt is being computed for the first time, by the first who has them."""
    return {
        one.number
        for one in scheduler.running
        if one.is_prefill and not one.num_output and one.request.request_id.endswith(FIRST)
    }


FIRST = ".1"
"""how the request table ends the name of a request's first attempt"""
