"""Loads: what a step tells the planner of itself (PAPER 2.3: request placement entries). No I/O."""

from collections import Counter, deque
from collections.abc import Sequence as Many

from engine.core import Plan
from engine.protocol import Load, SequenceLoad, StepSample
from engine.scheduler.holdings import Holdings
from engine.scheduler.sequence import Sequence

MAX_SAMPLES = 64
SMOOTHING = 0.1


class Loads:
    """Timed decode steps since the last report, what memory was found how, and the report."""

    def __init__(self, instance: int, epoch: int) -> None:
        self._instance = instance
        self._epoch = epoch
        self._samples: deque[StepSample] = deque(maxlen=MAX_SAMPLES)
        self.step_s = 0.0
        """seconds of a decode step, smoothed"""
        self.is_leaving = False
        self.relief: Counter[str] = Counter()
        """loans, host_blocks, handovers, preemptions: in the order in which they are tried; a
        preemption is a sequence that stops, or gives up a block, or all that it has"""

    def timed(self, plan: Plan, seconds: float, tokens: int) -> None:
        """A step was run; ``tokens`` to a block. Only decode steps are samples."""
        if any(span.num_rows > 1 for span in plan.spans):
            return
        remote = sum(tokens for span in plan.spans for ref in span.table if ref.loan)
        keys = sum(span.first_position + 1 for span in plan.spans)
        self._samples.append(StepSample(plan.num_rows, max(0, keys - remote), remote, seconds))
        self.step_s += (seconds - self.step_s) * (SMOOTHING if self.step_s else 1.0)

    def report(
        self,
        running: Many[Sequence],
        num_waiting: int,
        waiting_blocks: int,
        holdings: Holdings,
        now: float,
    ) -> Load:
        samples, self._samples = list(self._samples), deque(maxlen=MAX_SAMPLES)
        sequences = [
            SequenceLoad(
                one.number,
                len(one.table),
                len(holdings.own_sealed(one)),
                max(0.0, now - (now if one.arrived is None else one.arrived)),
                one.num_output,
            )
            for one in running
        ]
        return Load(
            self._instance,
            self._epoch,
            len(running),
            num_waiting,
            waiting_blocks,
            sequences,
            self.step_s,
            int(self.is_leaving),
            samples,
            dict(self.relief),
        )
