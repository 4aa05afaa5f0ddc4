"""The result as text, as ``vllm bench serve`` prints it, and as a JSON file."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.load.measures import details
from engine.load.options import Options
from engine.load.outcome import Outcome

WIDTH = 50
LATE_MS = 10.0
"""a client that sends so late, at its 99th percentile, is busy itself"""
NUM_REASONS = 3
TITLES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def console(found: Mapping[str, Any], outcomes: Sequence[Outcome], options: Options) -> str:
    rows: list[tuple[str, Any]] = [
        ("Successful requests:", found["completed"]),
        ("Failed requests:", found["failed"]),
    ]
    if options.max_concurrency:
        rows.append(("Maximum request concurrency:", options.max_concurrency))
    if math.isfinite(options.request_rate):
        rows.append(("Request rate configured (RPS):", options.request_rate))
    rows += [
        ("Benchmark duration (s):", found["duration"]),
        ("Total input tokens:", found["total_input_tokens"]),
        ("Total generated tokens:", found["total_output_tokens"]),
        ("Request throughput (req/s):", found["request_throughput"]),
    ]
    if found["request_goodput"] is not None:
        rows.append(("Request goodput (req/s):", found["request_goodput"]))
    rows += [
        ("Output token throughput (tok/s):", found["output_throughput"]),
        ("Peak output token throughput (tok/s):", found["max_output_tokens_per_s"]),
        ("Peak concurrent requests:", float(found["max_concurrent_requests"])),
        ("Total token throughput (tok/s):", found["total_token_throughput"]),
    ]
    lines = [" Serving Benchmark Result ".center(WIDTH, "="), *(_row(*row) for row in rows)]
    for name in options.percentile_metrics.split(","):
        lines.append(TITLES[name].center(WIDTH, "-"))
        statistics = [("Mean", "mean"), ("Median", "median")]
        statistics += [(f"P{p:g}", f"p{p:g}") for p in options.percentiles]
        for title, key in statistics:
            lines.append(_row(f"{title} {name.upper()} (ms):", found[f"{key}_{name}_ms"]))
    lines.append("=" * WIDTH)
    lines += _remarks(found, outcomes, options)
    return "\n".join(lines)


def result(
    found: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    options: Options,
    *,
    model: str,
    began: datetime,
) -> dict[str, Any]:
    """The JSON object of ``--save-result``, with one entry a request for ``--save-detailed``."""
    ramp = {
        "ramp_up_strategy": options.ramp_up_strategy,
        "ramp_up_start_rps": options.ramp_up_start_rps,
        "ramp_up_end_rps": options.ramp_up_end_rps,
    }
    rated = math.isfinite(options.request_rate)
    return {
        "date": f"{began:%Y%m%d-%H%M%S}",
        "endpoint_type": options.backend,
        "backend": options.backend,
        "label": options.label or None,
        "model_id": model,
        "tokenizer_id": options.tokenizer or model,
        "num_prompts": options.num_prompts,
        **options.facts,
        "request_rate": options.request_rate if rated else "inf",
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency or None,
        **(ramp if options.ramp_up_strategy else {}),
        **found,
        **(details(outcomes) if options.save_detailed else {}),
    }


def file_name(options: Options, *, model: str, began: datetime) -> Path:
    """Of the JSON file; pictures lie beside it."""
    rate = f"{options.request_rate}qps"
    if options.ramp_up_strategy:
        first, last = options.ramp_up_start_rps, options.ramp_up_end_rps
        rate = f"ramp-up-{options.ramp_up_strategy}-{first:g}qps-{last:g}qps"
    cap = f"-concurrency{options.max_concurrency}" if options.max_concurrency else ""
    stem = f"{options.label or options.backend}-{rate}{cap}-{model.rpartition('/')[2]}"
    name = options.result_filename or f"{stem}-{began:%Y%m%d-%H%M%S}.json"
    return Path(options.result_dir).expanduser() / name


def save(path: Path, body: Mapping[str, Any]) -> None:
    """Raises ConfigError when it cannot be written."""
    with writing(path):
        path.write_text(json.dumps(body), encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes its folder. Raises ConfigError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"the result cannot be written to {path}: {error.strerror}") from error


def _row(title: str, value: Any) -> str:
    return f"{title:<40} {value:<10.2f}" if isinstance(value, float) else f"{title:<40} {value:<10}"


def _remarks(found: Mapping[str, Any], outcomes: Sequence[Outcome], options: Options) -> list[str]:
    """What a reader of the figures has to know beside them."""
    reasons = Counter(outcome.error for outcome in outcomes if outcome.error)
    lines = [f"{number} failed: {text}" for text, number in reasons.most_common(NUM_REASONS)]
    if len(reasons) > NUM_REASONS:
        lines.append(f"... and for {len(reasons) - NUM_REASONS} other reasons")
    paced = math.isfinite(options.request_rate) or options.ramp_up_strategy
    if (paced or options.dataset_name == "timed_trace") and found["p99_send_delay_ms"] > LATE_MS:
        lines.append(
            f"1 % of the requests were sent {found['p99_send_delay_ms']:.0f} ms late or more: "
            "this client is short of processor time itself"
        )
    return lines
