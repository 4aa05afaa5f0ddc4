"""DistAttention, the owner's side: exact attention over rBlocks wherever they live.

Each layer's queries leave for the holders first; then the local part is computed; then the
holders' node rows are merged in along the fixed tree. A holder that misses its deadline or fences
poisons the rows that needed it: the step goes on for all others.
(PAPER: DistAttention, MicroAttention; the answering side is ``attention/answer.py``.)
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from engine.attention.attached import Attached
from engine.attention.base import AttentionBackend, Partial, Rotary
from engine.attention.block_reads import BlockReads
from engine.attention.fixed import FixedStep
from engine.attention.kernel_backend import as_numpy
from engine.attention.lenders import Lenders
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.mapped import Mapped
from engine.attention.native_asks import NativeAsks
from engine.attention.native_calls import NativeStep
from engine.attention.places import KnownPlaces, Places
from engine.attention.reading import Reading
from engine.attention.slices import HolderStep, asked_heads
from engine.attention.staging import StagingCache
from engine.attention.travel import Travels
from engine.attention.ways import Ways, keys_of
from engine.core import BlockRef, Plan
from engine.errors import ConfigError
from engine.protocol import Answer, Ask, Begin, Busy, FencedOff

_NO_PLAN = Plan(0, (), ())


class DistAttention(AttentionBackend):
    """Wraps a local backend; asks holders over their channels or reads their mapped memory."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        local: str = "native"
        """for what lies at hand: native, triton, flash, numpy, sdpa, reference or your own"""
        local_options: dict[str, Any] = field(default_factory=dict)
        way: Literal["cheapest", "query", "mapped", "copy"] = "cheapest"
        """how lent rBlocks are used: send queries, read the holder's memory, or copy once;
        cheapest: queries or the holder's memory, by what steps were seen to cost"""
        bits: Literal["placement", "any"] = "any"
        """placement: refuse holders whose kernel could give other bits than the own one"""
        wait_s: float = 2.0
        """longest wait for one holder in one step, beyond the work it was given"""
        wait_per_key_s: float = 2e-7
        """added for each query row, key and layer asked for"""
        staging_blocks: int = 0
        """blocks of the own pool for copies (way copy); without room the query travels"""

    def __init__(self, config: Config, *, local: LocalBackend, lenders: Lenders) -> None:
        if config.bits == "placement":
            if not local.fingerprint:
                raise ConfigError(
                    f"attention.options.bits=placement: the backend {config.local!r} sums over "
                    "many blocks at once; use local=native or numpy as pool.kernel, or bits=any"
                )
            lenders.required_kernel = local.fingerprint
        self._config = config
        self.local = local
        self.heads = asked_heads(local.shape, local.layout)
        self._lenders = lenders
        lenders.on_answer = self._on_answer
        lenders.on_declined = self._on_declined
        self.reads = BlockReads(lenders, local.pool)
        self.staging = StagingCache(self.reads, local.pool, self.num_staging_blocks)
        self.travels = Travels(local.shape, local.layout)
        self.ways = Ways()
        self._own_keys = self._lent_keys = 0
        """this step's keys, for each query row, here and at those who are asked"""
        self._asked_at = 0.0
        self.missed: Counter[int] = Counter()
        """steps in a row in which a holder missed its deadline"""
        self._attached = Attached(lenders)
        self._plan = _NO_PLAN
        self._mapped = Mapped(lenders, local.layout.block_bytes, local.maps)
        self._places = KnownPlaces(local.pool.block_address)
        self._reading = self._read(_NO_PLAN, [], "query")
        self._native: NativeStep | None = None
        self._asks: NativeAsks | None = None
        self._budget_s: dict[int, float] = {}
        self._lent_ns = 0
        self._asking: dict[tuple[int, int, int], NodeRows] = {}
        self._failed: set[int] = set()

    def begin(self, plan: Plan) -> None:
        self._plan = plan
        self._failed = set()
        self._asking = {}
        self._native = self._asks = None
        # 1) Which leaves are read here, and which are asked for where they lie.
        way = self._choose(plan, places := self._places.of(plan))
        key = Reading.key_of(plan, way)
        if key is not None and self._reading.key == key:
            self._reading.go_on(plan)
        else:
            self._reading = self._read(plan, places, way, key)
        self.local.place_writes(plan)
        self.travels.begin(self._reading.ways)
        # 2) Tell each holder the tables that changed, and this step's slices.
        per_leaf = self.local.layout.tokens * self.local.shape.num_layers
        for instance, step in self._steps.items():
            for index, leaves in self._reading.remote[instance].items():
                self._attached.tell(instance, plan.spans[index].sequence, leaves)
            spans = step.ask_spans(self._attached.versions(instance))
            keys = step.num_row_keys * per_leaf
            self._budget_s[instance] = self._config.wait_s + self._config.wait_per_key_s * keys
            begin = Begin(plan.step, self.local.scale, spans, self.heads)
            if not self._lenders.send(instance, begin):
                self._failed.add(instance)

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        self.local.write(k_TKD, v_TKD, layer)

    def write_rotated(self, qk_TJD: Tensor, v_TKD: Tensor, rotary: Rotary, layer: int) -> Tensor:
        return self.local.write_rotated(qk_TJD, v_TKD, rotary, layer)

    def start(self, q_THD: Tensor, layer: int) -> tuple[Tensor, int]:
        self._asked_at = time.perf_counter()
        asked_THD = q_THD.cpu() if self._steps else q_THD  # once for all holders
        for instance, step in self._steps.items():
            for number in range(len(step.slices)):
                if instance not in self._failed:
                    self._ask(instance, number, asked_THD, layer)
        return q_THD, layer

    def finish(self, pending: tuple[Tensor, int]) -> Partial:
        q_THD, layer = pending
        began = time.perf_counter()
        self.local.attend(self._reading.piece, q_THD, layer, self._reading.rows)
        self.ways.learn_work(time.perf_counter() - began, self._own_keys)
        if self._asking:
            self.collect()
        if self._steps and not self._failed:
            self.ways.learn_trip(time.perf_counter() - self._asked_at, self._lent_keys)
        partial = self.local.merge(self._reading.program, self._reading.rows, len(q_THD))
        poisoned = self._poisoned()
        for span in self._plan.spans if poisoned else ():
            if span.sequence in poisoned:
                rows = slice(span.row_start, span.row_start + span.num_rows)
                partial.out_THD[rows], partial.lse_TH[rows] = 0.0, -float("inf")
        return partial

    def native_step(self, q_THD: Tensor) -> NativeStep | None:
        reading = self._reading
        step = self.local.native_step_of(reading.piece, reading.program, reading.rows, q_THD)
        if step is None or self._failed:
            return None
        if self._steps:
            layers = self.local.shape.num_layers
            asks = NativeAsks(self._plan.step, self._steps, layers, self._plan.num_rows)
            if not asks.open(self._lenders):
                return None
            self._asks, step.slices, step.num_slices = asks, asks.address, len(asks.slices)
            step.patience_ns = int(1e9 * self.ways.patience_s)
        self._native = step
        self._lend_time(step)
        return step

    def catch_up(self, q_THD: Tensor, layer: int) -> None:
        assert self._asks is not None, "catch_up without native_step"
        assert self._native is not None
        missing = list(self._asks.missing())
        self._asked_at = self._asks.asked_at()
        for instance in {instance for instance, _, _ in missing}:
            self._budget_s[instance] -= 1e-9 * (self._lent_ns - self._native.sleep_ns)
        for instance, number, was_asked in missing:
            self._asking[instance, layer, number] = self._answer_rows(instance, number)
            if not was_asked and instance not in self._failed:
                self._ask(instance, number, q_THD, layer)
        self.collect()
        self._asks.open(self._lenders, left_out=self._failed)
        self._lend_time(self._native)

    def fixed_step(self) -> FixedStep | None:
        return FixedStep.of(self._reading, self.local, self.start, self.collect)

    def end(self) -> frozenset[int]:
        if self._native is not None:
            lent_keys = 0 if self._failed else self._lent_keys
            layers = self.local.shape.num_layers
            self.ways.learn_step(self._native, layers, self._own_keys, lent_keys)
        poisoned = self._poisoned() | self._mapped.changed(self._plan.step)
        for instance, seconds in self._asks.trips() if self._asks else ():
            self.travels.answered(instance, seconds)
        self.travels.book(self._plan, self._steps, self._mapped.refs, poisoned)
        for instance in self._steps.keys() - self._failed:
            self.missed.pop(instance, None)
        return poisoned

    @property
    def num_staging_blocks(self) -> int:
        """Blocks of the own pool that it wants for copies."""
        return self._config.staging_blocks if self._config.way == "copy" else 0

    def forget_sequence(self, sequence: int) -> None:
        """The sequence is done or starts over: drop its tables at the holders."""
        self._attached.forget_sequence(sequence)
        self._reading = self._read(_NO_PLAN, [], "query")

    def forget_tables(self, instance: int) -> None:
        """The holder has no table of ours any more: attach anew before it is asked again."""
        self._attached.forget_instance(instance)
        self._reading = self._read(_NO_PLAN, [], "query")
        self.missed.pop(instance, None)

    @property
    def _steps(self) -> dict[int, HolderStep]:
        return self._reading.steps

    def _read(self, plan: Plan, places: list[Places], way: str, key: Any = None) -> Reading:
        self._mapped.begin()
        lent = [ref for one in places for refs in one.lent.values() for ref in refs.values()]
        copies = self.staging.fetch(lent, self._config.wait_s) if way == "copy" and lent else {}

        def where(sequence: int, ref: BlockRef) -> int:
            if ref in copies:
                return self.local.pool.block_address(copies[ref])
            return self._mapped.address(sequence, ref) if way == "mapped" else 0

        most = self._lenders.max_body_bytes if lent else 1 << 20
        return Reading.of(plan, places, way, where, key=key, local=self.local, max_body_bytes=most)

    def _choose(self, plan: Plan, places: list[Places]) -> str:
        """This step's way; where memory cannot be mapped, queries travel anyhow."""
        own_keys, lent_keys = keys_of(plan, places, self.local.layout.tokens)
        way: str = self._config.way
        if way == "cheapest":
            way = "query" if self.ways.prefers_query(own_keys, lent_keys) else "mapped"
        if way == "mapped" and not self._lenders.maps:
            way = "query"
        self._lent_keys = lent_keys if way == "query" else 0
        self._own_keys = own_keys + lent_keys - self._lent_keys
        return way

    def _lend_time(self, native: NativeStep) -> None:
        """The native library may sleep for answers as long as no holder's budget ends."""
        left_s = [self._budget_s[one] for one in self._steps.keys() - self._failed]
        native.sleep_ns = self._lent_ns = int(1e9 * max(0.0, min(left_s, default=0.0)))

    def _answer_rows(self, instance: int, number: int) -> NodeRows:
        part = self._steps[instance].slices[number]
        return self._reading.rows.slice(part.base, part.num_rows)

    def _ask(self, instance: int, number: int, q_THD: Tensor, layer: int) -> None:
        self._asking[instance, layer, number] = self._answer_rows(instance, number)
        body = as_numpy(q_THD[self._steps[instance].slices[number].rows]).data.cast("B")
        if not self._lenders.send(instance, Ask(self._plan.step, layer, number), body):
            self._failed.add(instance)

    def collect(self) -> None:
        """Wait for the layer's answers, within the holders' budgets; failed ones have no keys."""
        while waiting := {key[0] for key in self._asking} - self._failed:
            began = time.monotonic()
            # A budget is below 0 when the last answer came late and yet before it was looked at.
            self._lenders.pump(max(0.0, min(self._budget_s[i] for i in waiting)), waiting)
            waited = time.monotonic() - began
            for instance in waiting:
                self._budget_s[instance] -= waited
                if self._lenders.get(instance) is None:
                    self._failed.add(instance)
                elif self._budget_s[instance] <= 0 and any(k[0] == instance for k in self._asking):
                    self._failed.add(instance)
                    self.missed[instance] += 1
                    self.travels.num_missed += 1
        self._asking.clear()
        for instance in self._failed & self._steps.keys():
            for number in range(len(self._steps[instance].slices)):
                self._answer_rows(instance, number).clear()

    def _on_answer(self, instance: int, message: Answer, body: memoryview) -> None:
        key = (instance, message.layer, message.slice)
        if message.step != self._plan.step or key not in self._asking:
            return  # late, from a step that was given up
        rows = self._asking.pop(key)
        self.travels.answered(instance, time.perf_counter() - self._asked_at)
        if not rows.fill(body):
            self._failed.add(instance)
            self._lenders.drop(instance, f"an answer of {len(body)} bytes, not {rows.num_bytes}")

    def _on_declined(self, instance: int, message: FencedOff | Busy) -> None:
        if message.step == self._plan.step:
            self._failed.add(instance)

    def _poisoned(self) -> frozenset[int]:
        return frozenset(
            self._plan.spans[index].sequence
            for instance in self._failed & self._steps.keys()
            for index in self._steps[instance].span_indexes
        )
