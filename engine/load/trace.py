"""Recorded traffic again: arrival times, lengths and shared prefixes, with random words.

A CSV or JSONL file, or a .gz of one. Keys: ``arrival_s`` or, as Mooncake has it, ``timestamp`` in
milliseconds; ``prompt_tokens`` or ``input_length``; ``output_tokens`` or ``output_length``;
``hash_ids``, one for each block of the prompt: prompts share what is made of the same ids.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.load.options import Options
from engine.load.records import read_lines, read_records
from engine.load.sample import Sample
from engine.load.words import Words
from engine.model.tokenizer import Tokenizer

MOST = 1e15
"""of tokens and seconds"""


def timed_trace(options: Options, tokenizer: Tokenizer, rng: np.random.Generator) -> list[Sample]:
    """The first ``num_prompts`` rows by arrival. Without times in it, ``--request-rate`` rules."""
    words, samples = Words(tokenizer), list[Sample]()
    for where, row in _rows(options):
        if len(samples) == options.num_prompts:
            break
        num_prompt = _number(where, row, "prompt_tokens", "input_length")
        num_output = options.output_len or _number(where, row, "output_tokens", "output_length")
        if num_prompt < 1 or num_output < 1:
            continue
        ids: list[int] = []
        for block in _hashes(where, row):
            own = np.random.default_rng([options.seed, abs(block)])
            ids += words.draw(options.timed_trace_chunk_hash_size, own)
        ids = ids[: int(num_prompt)] + words.draw(max(0, int(num_prompt) - len(ids)), rng)
        samples.append(
            Sample(*words.text(ids, rng), int(num_output), _arrival(where, row, options))
        )
    if not samples:
        raise ConfigError(f"--dataset-path {options.dataset_path!r} has no requests")
    return sorted(samples, key=lambda one: one.arrival_s or 0.0)


def _rows(options: Options) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if Path(options.dataset_path or "").name.removesuffix(".gz").endswith(".csv"):
        for number, row in enumerate(csv.DictReader(read_lines(options)), 2):
            yield f"{options.dataset_path}, line {number}", row
    else:
        yield from read_records(options)


def _arrival(where: str, row: Mapping[str, Any], options: Options) -> float | None:
    for key, unit_s in (("arrival_s", 1.0), ("timestamp", 0.001)):
        if row.get(key) is not None:
            return _number(where, row, key) * (options.timed_trace_sec_multiplier or unit_s)
    return None


def _hashes(where: str, row: Mapping[str, Any]) -> list[int]:
    found = row.get("hash_ids") or []
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise ConfigError(f"{where}: hash_ids is {str(found)[:40]!r}, no list of whole numbers")
    return found


def _number(where: str, row: Mapping[str, Any], *keys: str) -> float:
    for key in keys:
        if row.get(key) is not None:
            try:
                value = float(row[key])
                if abs(value) < MOST:  # nor is nan
                    return value
            except (TypeError, ValueError, OverflowError):
                pass
            raise ConfigError(f"{where}: {key} is {row[key]!r}, no number")
    raise ConfigError(f"{where}: wanted is {' or '.join(keys)}, there is {', '.join(row)}")
