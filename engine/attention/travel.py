"""Travel: what remote attention has cost, by sequence and in all; told in reports."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from engine.attention.slices import HolderStep
from engine.core import ITEM_BYTES, BlockLayout, BlockRef, Distribution, ModelShape, Plan

TRIP_BOUNDS_S = tuple(scale * 10**power for power in range(-5, 1) for scale in (1.0, 2.5, 5.0))


@dataclass(slots=True)
class Travel:
    query_bytes: int = 0
    partial_bytes: int = 0
    kv_bytes_avoided: int = 0
    """bytes of remote keys and values that every step read where they lie"""
    steps_by_way: Counter[str] = field(default_factory=Counter)
    trip_s: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """seconds from questions to their answers, by holder; over layers and steps"""


class Travels:
    """Of each sequence in ``of``, and of all since the process began in the rest."""

    def __init__(self, shape: ModelShape, layout: BlockLayout) -> None:
        self._shape = shape
        self._layout = layout
        self.of: dict[int, Travel] = {}
        self.in_all = Travel()
        self.num_block_reads = 0
        """lent blocks that steps used where they lie, each as often as a step did"""
        self.num_missed = 0
        """steps in which a holder missed its deadline"""
        self.trips = Distribution(TRIP_BOUNDS_S)
        """seconds from a question to its answer: the mean of a step's questions to one holder"""
        self._trip_s: defaultdict[int, float] = defaultdict(float)

    def begin(self, ways: Iterable[tuple[int, str]]) -> None:
        """A step starts; ``ways`` as in Reading."""
        self._trip_s.clear()
        for sequence, taken in ways:
            self.of.setdefault(sequence, Travel()).steps_by_way[taken] += 1

    def answered(self, instance: int, seconds: float) -> None:
        """A holder's answers of this step took so long, beyond what was noted before."""
        self._trip_s[instance] += seconds

    def book(
        self,
        plan: Plan,
        steps: Mapping[int, HolderStep],
        mapped: Mapping[int, Collection[BlockRef]],
        poisoned: Collection[int],
    ) -> None:
        """Add a step to the accounts of its sequences, those apart that it was in vain for."""
        for instance, step in steps.items():
            trip_s = self._trip_s[instance]
            if trip_s:
                self.trips.add(trip_s / (self._shape.num_layers * len(step.slices)))
            for index, (num_rows, num_node_rows, num_leaves) in step.sizes().items():
                sequence = plan.spans[index].sequence
                if sequence in poisoned:
                    continue
                self.of[sequence].trip_s[instance] += trip_s
                self._add(sequence, num_leaves, num_rows, num_node_rows)
        for sequence, refs in mapped.items():
            if sequence not in poisoned:
                self._add(sequence, len(refs))

    def _add(
        self, sequence: int, num_leaves: int, num_rows: int = 0, num_node_rows: int = 0
    ) -> None:
        shape, item_bytes = self._shape, ITEM_BYTES[self._layout.query_dtype]
        per_row = shape.num_layers * shape.num_heads
        self.num_block_reads += num_leaves
        for travel in (self.of[sequence], self.in_all):
            travel.query_bytes += per_row * num_rows * shape.head_dim * item_bytes
            travel.partial_bytes += per_row * num_node_rows * (shape.head_dim + 1) * 4
            travel.kv_bytes_avoided += num_leaves * self._layout.block_bytes
