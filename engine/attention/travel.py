"""Travel: what one sequence's remote attention has cost so far; told in its report."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from engine.attention.slices import HolderStep
from engine.core import ITEM_BYTES, BlockLayout, BlockRef, ModelShape, Plan


@dataclass(slots=True)
class Travel:
    query_bytes: int = 0
    partial_bytes: int = 0
    kv_bytes_avoided: int = 0
    """bytes of remote keys and values that every step read where they lie"""
    steps_by_way: Counter[str] = field(default_factory=Counter)


def count(
    travel: Mapping[int, Travel],
    plan: Plan,
    steps: Iterable[HolderStep],
    mapped: Mapping[int, Collection[BlockRef]],
    *,
    poisoned: Collection[int],
    shape: ModelShape,
    layout: BlockLayout,
) -> None:
    """Add a step to the accounts of its sequences, those apart that it was in vain for."""
    per_row = shape.num_layers * shape.num_heads
    for step in steps:
        for index, (num_rows, num_node_rows, num_leaves) in step.sizes().items():
            sequence = plan.spans[index].sequence
            if sequence in poisoned:
                continue
            of = travel[sequence]
            of.query_bytes += per_row * num_rows * shape.head_dim * ITEM_BYTES[layout.dtype]
            of.partial_bytes += per_row * num_node_rows * (shape.head_dim + 1) * 4
            of.kv_bytes_avoided += num_leaves * layout.block_bytes
    for sequence, refs in mapped.items():
        if sequence not in poisoned:
            travel[sequence].kv_bytes_avoided += len(refs) * layout.block_bytes
