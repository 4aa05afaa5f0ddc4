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
BELIEF = 1e-6
"""the prior's weight in each share; a timed step weighs the square of the seconds that it should
take by the prior, so 10 ms a hundred times as much"""
OUTLIER = 4.0
"""a step that took so many times what was expected met something else, and teaches nothing"""


class Performance(StepCost):
    """Least squares over (1, rows, local keys, remote keys), of which older samples count less.

    The prior does not: what no sample tells, such as the price of remote keys where nobody
    borrows, stays near it, and nothing grows with the number of samples.
    """

    def __init__(self) -> None:
        size = range(len(PRIOR))
        self._normal = tuple(tuple(BELIEF * (i == j) for j in size) for i in size)
        self._wanted = (BELIEF,) * len(PRIOR)
        """normal x shares of the prior = wanted"""
        self._shares = [1.0] * len(PRIOR)
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
        if not samples:
            return
        knows = self.num_samples > 20
        keep, again = FORGETTING, (1 - FORGETTING) * BELIEF
        p, row_s, local_s, remote_s = PRIOR
        step, row, local, remote = self._shares
        # Written out, for this is most of what a planner does with a report.
        (pp, pq, pr, ps), (_, qq, qr, qs), (_, _, rr, rs), (_, _, _, ss) = self._normal
        pt, qt, rt, st = self._wanted
        for sample in samples:
            seconds = sample.seconds
            q, r = sample.num_rows * row_s, sample.local_keys * local_s
            s = sample.remote_keys * remote_s
            if knows:
                expected = p * step + q * row + r * local + s * remote
                if seconds > OUTLIER * max(expected, 1e-4):
                    continue
            self.num_samples += 1
            pq, pr, ps = keep * pq + p * q, keep * pr + p * r, keep * ps + p * s
            qr, qs, rs = keep * qr + q * r, keep * qs + q * s, keep * rs + r * s
            pp, qq = keep * pp + p * p + again, keep * qq + q * q + again
            rr, ss = keep * rr + r * r + again, keep * ss + s * s + again
            pt, qt = keep * pt + p * seconds + again, keep * qt + q * seconds + again
            rt, st = keep * rt + r * seconds + again, keep * st + s * seconds + again
        self._normal = (pp, pq, pr, ps), (pq, qq, qr, qs), (pr, qr, rr, rs), (ps, qs, rs, ss)
        self._wanted = pt, qt, rt, st
        self._shares = _solved(self._normal, self._wanted)
        self.coefficients = tuple(map(mul, (max(0.0, one) for one in self._shares), PRIOR))


def _solved(normal: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """By elimination; a positive definite matrix needs no other order of its rows."""
    rows = [[*row, value] for row, value in zip(normal, wanted, strict=True)]
    size = len(rows)
    for i, pivot in enumerate(rows):
        for row in rows[i + 1 :]:
            by = row[i] / pivot[i]
            for j in range(i + 1, size + 1):
                row[j] -= by * pivot[j]
    found = [0.0] * size
    for i in reversed(range(size)):
        known = 0.0
        for j in range(i + 1, size):
            known += rows[i][j] * found[j]
        found[i] = (rows[i][-1] - known) / rows[i][i]
    return found
