"""Ways: how lent rBlocks are used in a step, by what it would cost (way ``cheapest``).

A *query* costs the round trip of each layer and its holder's work, hidden behind the own part's
work as far as that goes. *Mapped* costs the work here. So a query pays once the own part is long
enough to hide the trip. Both costs are learned from the steps that were run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.attention.native_calls import NativeStep
from engine.attention.places import Places
from engine.core import Plan

LEARNING = 0.1
"""share of the newest step in what is believed"""

TRYING = 0.999
"""what is believed of trips that are not made, from step to step"""

PATIENCE, LEAST_PATIENCE_S, MOST_PATIENCE_S = 3.0, 50e-6, 1e-3
"""how many times a trip's usual time is waited for its end before the core is given away"""

LOST_PATIENCE, REGAINED = 0.5, 1.1
"""how patience changes with a step in which most layers had to be waited for, and with others"""


def keys_of(plan: Plan, places: Sequence[Places], tokens: int) -> tuple[int, int]:
    """Keys of own blocks and of lent ones, for each query row, in blocks of so many tokens."""
    own = lent = 0
    for span, at in zip(plan.spans, places, strict=True):
        lent += span.num_rows * at.num_lent * tokens
        own += span.num_rows * len(at.leaves) * tokens
    return own, lent


@dataclass(slots=True)
class Ways:
    """Seconds; keys are counted for each query row."""

    key_s: float = 40e-9
    """one key, one layer: the work"""
    trip_s: float = 250e-6
    """one layer's question and answer, the holder's work apart"""

    patience: float = 1.0
    """share of the usual; where cores are short, whoever waits for an answer delays it"""

    @property
    def patience_s(self) -> float:
        usual_s = min(max(PATIENCE * self.trip_s, LEAST_PATIENCE_S), MOST_PATIENCE_S)
        return self.patience * usual_s

    def prefers_query(self, own_keys: int, lent_keys: int) -> bool:
        work_s = lent_keys * self.key_s
        shown_s = max(0.0, self.trip_s + work_s - own_keys * self.key_s)
        if shown_s < work_s:
            return True
        self.trip_s *= TRYING  # one bad trip must not be the last
        return False

    def learn_work(self, seconds: float, keys: int) -> None:
        """A layer's work here took so long."""
        if keys:
            self.key_s += LEARNING * (seconds / keys - self.key_s)

    def learn_step(self, step: NativeStep, layers: int, own_keys: int, lent_keys: int) -> None:
        """All layers of a step were run by the native library."""
        self.learn_work(step.attend_ns * 1e-9 / layers, own_keys)
        if lent_keys:
            self.learn_trip(step.trip_ns * 1e-9 / layers, lent_keys)
            in_vain = 2 * step.num_late > layers
            self.patience = min(1.0, self.patience * (LOST_PATIENCE if in_vain else REGAINED))

    def learn_trip(self, seconds: float, lent_keys: int) -> None:
        """A layer's questions left, and its last answer was there so much later."""
        trip_s = max(0.0, seconds - lent_keys * self.key_s)
        self.trip_s += LEARNING * (trip_s - self.trip_s)
