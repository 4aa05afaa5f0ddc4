"""NativeAsks: a step's questions to holders as the native library sends them and takes answers."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from engine.attention.lenders import Lenders
from engine.attention.native_calls import Heads, SliceAsk
from engine.attention.slices import HolderStep
from engine.protocol import Answer, Ask

LEFT_OUT, UNSENT, ASKED, ANSWERED = -1, 0, 1, 2
"""states of a slice in a layer, as in asks.h"""


class NativeAsks:
    """All slices of all holders; what it points to lives as long as this does."""

    def __init__(
        self, step: int, steps: Mapping[int, HolderStep], num_layers: int, num_queries: int
    ) -> None:
        self._kept: list[object] = []
        self._keys = [
            (instance, number) for instance, at in steps.items() for number in range(len(at.slices))
        ]
        self.slices = (SliceAsk * len(self._keys))()
        all_rows = np.arange(num_queries, dtype=np.int32)
        for told, (instance, number) in zip(self.slices, self._keys, strict=True):
            part = steps[instance].slices[number]
            rows = np.ascontiguousarray(all_rows[part.rows])
            asks = Heads(Ask(step, layer, number) for layer in range(num_layers))
            answers = Heads(Answer(step, layer, number) for layer in range(num_layers))
            self._kept += [rows, asks, answers]
            told.asks, told.answers, told.rows = asks.address, answers.address, rows.ctypes.data
            told.num_rows, told.base, told.num_node_rows = len(rows), part.base, part.num_rows

    @property
    def address(self) -> int:
        return ctypes.addressof(self.slices)

    def open(self, lenders: Lenders, left_out: Collection[int] = ()) -> bool:
        """Take the channels as they are now; False where one is not for the native library."""
        channels: dict[int, int] = {}
        for told, (instance, _) in zip(self.slices, self._keys, strict=True):
            lender = lenders.get(instance)
            if instance in left_out or lender is None:
                told.state = LEFT_OUT
            elif instance not in channels:
                channels[instance] = lender.channel.native()
            told.channel = channels.get(instance, 0)
        return len(channels) == len({instance for instance, _ in self._keys}) and all(
            channels.values()
        )

    def missing(self) -> Iterator[tuple[int, int, bool]]:
        """(instance, slice, whether it was asked) of this layer's missing answers."""
        for told, key in zip(self.slices, self._keys, strict=True):
            if told.state in (UNSENT, ASKED):
                yield *key, told.state == ASKED

    def asked_at(self) -> float:
        """When this layer's questions left, on the clock of ``time.perf_counter``."""
        return 1e-9 * max((told.asked_ns for told in self.slices), default=0)

    def trips(self) -> Iterator[tuple[int, float]]:
        """(instance, seconds from its questions to its answers that were taken natively)."""
        for told, (instance, _) in zip(self.slices, self._keys, strict=True):
            yield instance, 1e-9 * told.trip_ns
