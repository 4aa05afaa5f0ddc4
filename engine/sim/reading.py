"""Reading: one step's view of its keys: what lies at hand, and what holders answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import protocol as p
from engine.core import BlockRef, Plan
from engine.sim.truth import SimMemory

if TYPE_CHECKING:
    from engine.sim.step import SimStep


class Reading:
    """Asks each holder once; whoever fails poisons the sequences that needed it."""

    def __init__(self, step: SimStep, plan: Plan, memory: SimMemory) -> None:
        self.plan = plan
        self.is_computed = False
        self._tokens = memory.layout.tokens
        self._local = [
            {leaf: list(memory.keys[r.block]) for leaf, r in enumerate(span.table) if not r.loan}
            for span in plan.spans
        ]
        self._needed: dict[int, dict[int, dict[int, BlockRef]]] = {}
        """holder -> sequence -> leaf -> where it is lent"""
        self._answers: dict[int, dict[int, dict[int, list[int]]]] = {}
        self._failed: set[int] = set()
        for span in plan.spans:
            for leaf, ref in enumerate(span.table):
                if ref.loan:
                    of = self._needed.setdefault(ref.instance, {}).setdefault(span.sequence, {})
                    of[leaf] = ref
        for instance in self._needed:
            self._ask(step, instance)

    @property
    def waiting(self) -> list[int]:
        """Holders that have neither answered nor failed."""
        return sorted(self._needed.keys() - self._answers.keys() - self._failed)

    def fail(self, instance: int) -> None:
        self._failed.add(instance)

    def on_answer(
        self, instance: int, message: p.Answer, found: dict[int, dict[int, list[int]]]
    ) -> None:
        if message.step == self.plan.step:
            self._answers[instance] = found

    def check(self, keys_of: Callable[[int], list[int]]) -> tuple[frozenset[int], list[str]]:
        """The poisoned sequences, and keys that others would publish and are not theirs."""
        poisoned = frozenset(
            sequence for instance in self._failed for sequence in self._needed.get(instance, {})
        )
        wrong = []
        for span, local in zip(self.plan.spans, self._local, strict=True):
            if span.sequence in poisoned:
                continue
            found = dict(local)
            for instance, needed in self._needed.items():
                if span.sequence in needed:
                    answer = self._answers[instance].get(span.sequence, {})
                    found |= {leaf: answer.get(leaf, []) for leaf in needed[span.sequence]}
            keys = keys_of(span.sequence)
            for leaf in range(len(span.table)):
                first = leaf * self._tokens
                end = min(first + self._tokens, span.first_position)
                if first < end and found[leaf][: end - first] != keys[first:end]:
                    wrong.append(f"sequence {span.sequence} leaf {leaf} is read from other keys")
        return poisoned, wrong

    def _ask(self, step: SimStep, instance: int) -> None:
        if instance not in step.links:
            self.fail(instance)
            return
        spans = []
        for span in self.plan.spans:
            leaves = self._needed[instance].get(span.sequence)
            if leaves is None:
                continue
            key = (instance, span.sequence)
            table = [(leaf, ref.loan, ref.slot) for leaf, ref in leaves.items()]
            version, known = step.attached.get(key, (0, []))
            if table != known:
                version += 1
                step.attached[key] = (version, table)
                step.send(instance, p.Attach(span.sequence, version, table))
            spans.append(p.AskSpan(span.sequence, version, span.num_rows, span.first_position))
        step.send(instance, p.Begin(self.plan.step, 1.0, [spans]))
        step.send(instance, p.Ask(self.plan.step, 0, 0))
