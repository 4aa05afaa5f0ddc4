"""What is wrong with options, found before anything is asked of a server."""

import json
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import ConfigError
from engine.load.options import METRICS, Options
from engine.writable import why_not

OBJECTIVES = ("ttft", "tpot", "e2el")
AT_LEAST = {
    "num_prompts": 1,
    "random_input_len": 1,
    "random_output_len": 1,
    "prefix_repetition_suffix_len": 1,
    "prefix_repetition_num_prefixes": 1,
    "prefix_repetition_output_len": 1,
    "custom_output_len": 1,
    "timed_trace_chunk_hash_size": 1,
    "input_len": 0,
    "output_len": 0,
    "random_prefix_len": 0,
    "prefix_repetition_prefix_len": 0,
    "max_concurrency": 0,
    "num_warmups": 0,
    "seed": 0,
    "timed_trace_sec_multiplier": 0,
    "ready_check_timeout_sec": 0,
}


def check(options: Options) -> None:
    """Raises ConfigError, which lists every fault."""
    problems = [*_values(options), *_traffic(options), *_texts(options), *_files(options)]
    if problems:
        raise ConfigError(*problems)


def _values(options: Options) -> Iterator[str]:
    for name, least in AT_LEAST.items():
        value = getattr(options, name)
        if not (value >= least and math.isfinite(value)):
            yield f"{_flag(name)} is {value}; wanted is at least {least}"
    if not 0 <= options.random_range_ratio < 1:
        yield f"--random-range-ratio is {options.random_range_ratio}; wanted is 0 to below 1"
    for name in ("request_rate", "burstiness"):
        if not getattr(options, name) > 0:
            yield f"{_flag(name)} is {getattr(options, name)}; wanted is more than 0"
    if not math.isfinite(options.burstiness):
        yield "--burstiness is infinite; a large number sends evenly"


def _traffic(options: Options) -> Iterator[str]:
    first, last = options.ramp_up_start_rps, options.ramp_up_end_rps
    rated = math.isfinite(options.request_rate)
    if options.ramp_up_strategy:
        if rated:
            yield "--ramp-up-strategy sets the rate; leave out --request-rate"
        if not (0 <= first <= last < math.inf and last > 0):
            yield f"the ramp goes from {first} to {last} requests a second; it has to grow"
        elif options.ramp_up_strategy == "exponential" and not first:
            yield "an exponential ramp cannot start at 0; give --ramp-up-start-rps"
    elif first or last:
        yield "--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy"
    if options.self_timed and (rated or options.ramp_up_strategy):
        yield "--self-timed keeps the trace's times; leave out --request-rate and the ramp"
    if options.self_timed and options.dataset_name != "timed_trace":
        yield "--self-timed needs --dataset-name timed_trace"


def _texts(options: Options) -> Iterator[str]:
    if not _is_address(options.url):
        given = options.base_url or options.url
        yield f"{given!r} is no server's address; wanted is such as http://127.0.0.1:8000"
    for name in ("header", "metadata"):
        for text in getattr(options, name):
            if "=" not in text:
                yield f"{_flag(name)} {text!r}: wanted is KEY=VALUE"
    for name in options.percentile_metrics.split(","):
        if name not in METRICS:
            yield f"--percentile-metrics {name!r}: wanted are names of {', '.join(METRICS)}"
    for text in options.metric_percentiles.split(","):
        if not (_is_number(text) and 0 <= float(text) <= 100):
            yield f"--metric-percentiles {text!r}: wanted are numbers from 0 to 100"
    for text in options.goodput:
        name, _, value = text.partition(":")
        if name not in OBJECTIVES or not _is_number(value) or float(value) < 0:
            yield f"--goodput {text!r}: wanted is NAME:MS, names are {', '.join(OBJECTIVES)}"
    try:
        extra = json.loads(options.extra_body or "{}")
    except ValueError as error:
        yield f"--extra-body is no JSON: {error}"
    else:
        if not isinstance(extra, dict):
            yield f"--extra-body is {options.extra_body}; wanted is a JSON object"


def _files(options: Options) -> Iterator[str]:
    needs_file = options.dataset_name in ("custom", "timed_trace")
    if needs_file and not options.dataset_path:
        yield f"--dataset-name {options.dataset_name} needs --dataset-path FILE"
    elif needs_file and not Path(options.dataset_path).expanduser().is_file():
        yield f"--dataset-path {options.dataset_path!r}: there is no such file"
    if options.save_result or options.save_detailed or options.plot or options.plot_timeline:
        folder = Path(options.result_dir).expanduser().absolute()
        if reason := why_not(folder / "result.json"):
            yield f"--result-dir: the result cannot be written to {folder}: {reason}"
    if (options.plot or options.plot_timeline) and find_spec("matplotlib") is None:
        yield "--plot and --plot-timeline need matplotlib: pip install 'lendkv[plots]'"


def _is_address(url: str) -> bool:
    parts = urlsplit(url)
    try:
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above the last one
        return False


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
