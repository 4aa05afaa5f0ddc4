"""Figures: what became of a workload, as numbers that are the same whenever it is run again."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from engine.scheduler.entry import Entry
from engine.sim.serving.cluster import Cluster
from engine.sim.serving.config import ServingConfig

SHARES = (50, 90, 99)
MAX_SAMPLES = 240
BULK = 0.9


@dataclass(slots=True)
class Lent:
    """Blocks lent in all the cluster over time; the period doubles as the run gets long."""

    period_s: float = 1.0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds, lent, free)"""

    def look(self, cluster: Cluster) -> None:
        pools = [one.pool for one in cluster.instances]
        lent, free = sum(one.num_lent for one in pools), sum(one.num_free for one in pools)
        self.samples.append((round(cluster.clock.now, 6), lent, free))
        if len(self.samples) > MAX_SAMPLES:
            self.samples = self.samples[::2]
            self.period_s *= 2
        cluster.clock.after(self.period_s, lambda: self.look(cluster))


def figures(
    name: str, config: ServingConfig, cluster: Cluster, lent: Lent, num_requests: int
) -> dict[str, Any]:
    """Of a run that is over; seconds are virtual."""
    ended = cluster.front.ended
    good = [one for one in ended if not one.error]
    last = max((one.ended_at or 0.0 for one in ended), default=0.0)
    seconds = max(last, 1e-9)
    output = sum(len(one.token_ids) for one in good)
    offered = sum(one.request.sampling.max_tokens for one in ended)
    met = [one for one in good if _ttft(one) <= config.ttft_s and _tpot(one) <= config.tpot_s]
    relief = {
        kind: sum(one.scheduler.loads.relief[kind] for one in cluster.instances)
        for kind in ("loans", "handovers", "preemptions")
    }
    num_blocks = cluster.pool_blocks * len(cluster.instances)
    return {
        "system": name,
        "instances": len(cluster.instances),
        "tp": cluster.config.tp,
        "pool_tokens": cluster.pool_blocks * config.block_tokens,
        "requests": num_requests,
        "answered": len(good),
        "refused": len(ended) - len(good),
        "seconds": _rounded(seconds),
        "output_tokens": output,
        "tokens_per_s": _rounded(output / seconds),
        "bulk_tokens_per_s": _rounded(_bulk(good)),
        "goodput": _rounded(sum(len(one.token_ids) for one in met) / seconds),
        "met_share": _rounded(sum(len(one.token_ids) for one in met) / max(offered, 1)),
        "ttft_s": _spread([_ttft(one) for one in good]),
        "tpot_s": _spread([_tpot(one) for one in good if len(one.token_ids) > 1]),
        "e2e_s": _spread([(one.ended_at or 0.0) - one.arrived for one in good]),
        **relief,
        "recomputed_tokens": cluster.front.recomputed_tokens,
        "longest": cluster.front.longest,
        "steps": sum(one.num_steps for one in cluster.instances),
        "busy_share": _rounded(
            sum(one.busy_s for one in cluster.instances) / len(cluster.instances) / seconds
        ),
        "moved_blocks": cluster.copies.num_blocks,
        "advice": cluster.front.num_advised,
        "blocks": num_blocks,
        "lent_over_time": [list(sample) for sample in lent.samples],
    }


COLUMNS = (
    ("system", "system", "{}"),
    ("tokens/s", "tokens_per_s", "{:,.0f}"),
    ("goodput", "goodput", "{:,.0f}"),
    ("in time", "met_share", "{:.0%}"),
    ("TTFT p50", "ttft_s.p50", "{:.2f} s"),
    ("p99", "ttft_s.p99", "{:.2f} s"),
    ("TPOT p50", "tpot_s.p50", "{:.4f} s"),
    ("p99", "tpot_s.p99", "{:.4f} s"),
    ("E2E p50", "e2e_s.p50", "{:.1f} s"),
    ("preempted", "preemptions", "{:,}"),
    ("recomputed", "recomputed_tokens", "{:,}"),
    ("refused", "refused", "{:,}"),
    ("most lent", "most_lent", "{:,}"),
)


def table(found: Sequence[dict[str, Any]]) -> str:
    """One line a system."""
    rows = [[title for title, _, _ in COLUMNS]]
    for one in found:
        most = max((sample[1] for sample in one["lent_over_time"]), default=0)
        values = one | {"most_lent": most}
        rows.append([form.format(_at(values, key)) for _, key, form in COLUMNS])
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if not at else cell.rjust(w)
            for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _bulk(ended: Sequence[Entry]) -> float:
    """Tokens per second until the requests with nine tenths of all tokens had ended.

    So the last few, which run alone, do not say what a cluster is able to do.
    """
    by_end = sorted((one.ended_at or 0.0, len(one.token_ids)) for one in ended)
    so_far = list(accumulate(tokens for _, tokens in by_end))
    if not so_far:
        return 0.0
    moment = by_end[bisect_left(so_far, BULK * so_far[-1])][0]
    return sum(tokens for at, tokens in by_end if at <= moment) / max(moment, 1e-9)


def _at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _ttft(entry: Entry) -> float:
    return (entry.first_token_at or 0.0) - entry.arrived


def _tpot(entry: Entry) -> float:
    """Mean time of the tokens behind the first."""
    rest = len(entry.token_ids) - 1
    return ((entry.ended_at or 0.0) - (entry.first_token_at or 0.0)) / rest if rest else 0.0


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"mean": 0.0} | {f"p{share}": 0.0 for share in SHARES}
    found = np.percentile(np.array(values), SHARES)
    return {"mean": _rounded(float(np.mean(values)))} | {
        f"p{share}": _rounded(float(value)) for share, value in zip(SHARES, found, strict=True)
    }


def _rounded(value: float) -> float:
    """Six digits: another processor may add up in another order."""
    return float(f"{value:.6g}")
