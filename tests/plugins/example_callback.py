"""A callback that remembers from whom was borrowed, and which steps were slow."""

from dataclasses import dataclass, field

from engine.callbacks import Callback
from engine.core import Plan


@dataclass
class Watch(Callback):
    slow_s: float = 0.5
    borrowed_blocks: dict[int, int] = field(default_factory=dict)
    slow_steps: list[tuple[int, float]] = field(default_factory=list)
    num_rows: int = 0

    def on_step_end(self, plan: Plan, seconds: float, poisoned: frozenset[int]) -> None:
        self.num_rows += plan.num_rows
        if seconds > self.slow_s:
            self.slow_steps.append((plan.step, seconds))

    def on_borrow(self, instance: int, num_blocks: int) -> None:
        self.borrowed_blocks[instance] = self.borrowed_blocks.get(instance, 0) + num_blocks
