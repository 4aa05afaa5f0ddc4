"""Performance: how long a decode step takes, learned from timed steps (PAPER 2.4 and 2.5).

    T = overhead + rows * a + local keys * g + exposed wait
    exposed wait = max(0, fixed * holders + remote keys * r - local keys * g)

The first part is the paper's W(beta) / f(beta), the second its sum S / g(S), the third what remote
work costs where local work does not hide it.
"""

from collections.abc import Sequence
from operator import mul

from engine.protocol import StepSample
from engine.scheduler.base import StepCost

PRIOR = (0.01, 1e-3, 2e-6, 2e-6)
"""seconds: a step, a row, a local key, a remote key"""
HOLDER_S = 5e-4
"""round trips of all layers to one more holder, that cannot be hidden when there is little to do"""
LEAST_S = 1e-6
"""of a step, whatever was learned: samples that are all alike do not tell what a step takes"""
FORGETTING = 0.995
OUTLIER = 4.0
"""a step that took so many times what was expected met something else, and teaches nothing"""


class Performance(StepCost):
    """Recursive least squares over (1, rows, local keys, remote keys)."""

    def __init__(self) -> None:
        self._weights = [1.0] * len(PRIOR)
        """shares of the prior"""
        self._covariance = [[1e6 * (i == j) for j in range(len(PRIOR))] for i in range(len(PRIOR))]
        self.num_samples = 0
        self.coefficients: tuple[float, ...] = PRIOR
        """seconds of a step, a row, a local key, a remote key"""

    def seconds(self, num_rows: int, local_keys: int, remote_keys: int, holders: int) -> float:
        step_s, row_s, local_s, remote_s = self.coefficients
        local = local_keys * local_s
        away = holders * HOLDER_S + remote_keys * remote_s if remote_keys else 0.0
        return max(LEAST_S, step_s + num_rows * row_s + local + max(0.0, away - local))

    def serving_seconds(self, keys: int) -> float:
        return keys * self.coefficients[2]

    def learn(self, samples: Sequence[StepSample]) -> None:
        # Four numbers: plain Python takes a third of numpy's time for them.
        for sample in samples:
            counts = (1.0, sample.num_rows, sample.local_keys, sample.remote_keys)
            x = [*map(mul, counts, PRIOR)]
            expected = _dot(x, self._weights)
            if self.num_samples > 20 and sample.seconds > OUTLIER * max(expected, 1e-4):
                continue
            self.num_samples += 1
            spread = [_dot(row, x) for row in self._covariance]
            scale = FORGETTING + _dot(x, spread)
            gain = [one / scale for one in spread]
            error = sample.seconds - expected
            self._weights = [one + error * by for one, by in zip(self._weights, gain, strict=True)]
            self._covariance = [
                [(one - by * other) / FORGETTING for one, other in zip(row, spread, strict=True)]
                for row, by in zip(self._covariance, gain, strict=True)
            ]
        self.coefficients = tuple(map(mul, (max(0.0, one) for one in self._weights), PRIOR))


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    total: float = sum(map(mul, one, other))
    return total
