"""Loads: what a step tells the planner of itself (PAPER 2.3: request placement entries). No I/O."""

from collections import deque
from collections.abc import Sequence as Many

from engine.protocol import Load, SequenceLoad, StepSample
from engine.scheduler.holdings import Holdings
from engine.scheduler.sequence import Sequence

MAX_SAMPLES = 64


class Loads:
    """Timed decode steps since the last report, and the report."""

    def __init__(self, instance: int, epoch: int) -> None:
        self._instance = instance
        self._epoch = epoch
        self._samples: deque[StepSample] = deque(maxlen=MAX_SAMPLES)
        self._step_s = 0.0
        self.is_leaving = False

    def sample(self, sample: StepSample) -> None:
        """A decode step was run and timed."""
        self._samples.append(sample)
        self._step_s += (sample.seconds - self._step_s) * (0.1 if self._step_s else 1.0)

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
            self._step_s,
            int(self.is_leaving),
            samples,
        )
