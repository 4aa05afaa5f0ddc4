"""Lines of a dataset's file; a mistake in it is a ConfigError that names the line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.load.options import Options


def read_records(options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, its object) of a JSONL file, which may be a .gz. Raises ConfigError."""
    for number, line in enumerate(read_lines(options), 1):
        where = f"{options.dataset_path}, line {number}"
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{where}: no JSON: {error}") from error
            if not isinstance(record, dict):
                raise ConfigError(f"{where}: wanted is an object, there is {line.strip()[:40]}")
            yield where, record


def read_lines(options: Options) -> Iterator[str]:
    path = Path(options.dataset_path).expanduser()
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--dataset-path {options.dataset_path!r} cannot be read: {reason}"
        ) from error
