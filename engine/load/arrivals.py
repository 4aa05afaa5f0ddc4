"""When requests are sent: seconds from the start, one for each. Pure."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Ramp = Literal["linear", "exponential"]


def steady(number: int, rate: float, burstiness: float, rng: np.random.Generator) -> Times:
    """Gamma distributed gaps of ``rate`` requests a second; the first is sent after one gap.

    ``burstiness`` is the gamma's shape: 1 is a Poisson process, less comes in bursts, more evenly.
    All are scaled so that the last is due at ``number / rate``: the rate is met by every seed.
    An infinite rate sends all at once.
    """
    if np.isinf(rate):
        return np.zeros(number)
    times = np.cumsum(_gaps(np.full(number, rate), burstiness, rng))
    return times * (number / rate / times[-1]) if number else times


def ramp(
    number: int,
    first_rate: float,
    last_rate: float,
    how: Ramp,
    burstiness: float,
    rng: np.random.Generator,
) -> Times:
    """Gaps as in ``steady``, while the rate goes from the first to the last, request by request."""
    way = np.arange(number) / max(number, 1)
    if how == "linear":
        rates = first_rate + (last_rate - first_rate) * way
    else:
        rates = first_rate * (last_rate / first_rate) ** way
    return np.cumsum(_gaps(np.maximum(rates, 1e-9), burstiness, rng))


def _gaps(rates: Times, burstiness: float, rng: np.random.Generator) -> Times:
    return rng.gamma(burstiness, 1.0 / (rates * burstiness))
