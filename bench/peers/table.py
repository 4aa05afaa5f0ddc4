"""Ratios of paired runs, round by round. Knows nothing of what was run."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

Runs = Mapping[str, Sequence[Mapping[str, float]]]
"""of each contender and round, the rate of each figure"""


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratios(runs: Runs, figure: str, ours: str, peers: Sequence[str]) -> list[float]:
    """Ours to the best of the peers, of each round."""
    best = [
        max(run[figure] for run in turn) for turn in zip(*(runs[p] for p in peers), strict=True)
    ]
    return [run[figure] / peer for run, peer in zip(runs[ours], best, strict=True)]


def lines(
    runs: Runs, figures: Sequence[str], ours: str, peers: Sequence[str], better: Sequence[str]
) -> Iterator[str]:
    """For each figure the median rates and ratios to each peer, and to the better of some."""
    peers = [peer for peer in peers if peer in runs]
    better = [peer for peer in better if peer in peers]
    for figure in figures:
        rate = {
            name: statistics.median(run[figure] for run in runs[name]) for name in (ours, *peers)
        }
        yield f"{figure}: {ours} {rate[ours]:.0f} tokens/s"
        for peer in peers:
            found = spread(ratios(runs, figure, ours, [peer]))
            yield f"    {peer:22} {rate[peer]:6.0f} tokens/s, ratio {found}"
        if len(better) > 1:
            found = spread(ratios(runs, figure, ours, better))
            yield f"    the better of {' and '.join(better)}, ratio {found}"
