"""Results: one JSON file of all runs, written after each, so that a run that was cut goes on."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "results" / "paper.json"


class Results:
    """By name of the run. Known ones are not run again unless ``again``."""

    def __init__(self, path: Path | None = FILE, *, again: bool = False) -> None:
        """Without a path nothing is written."""
        self._path = path
        self._again = again
        self.values: dict[str, Any] = {}
        if path is not None and path.exists():
            self.values = json.loads(path.read_text())
        self._done: set[str] = set()

    def get(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        known = self.values.get(name)
        if known is not None and (not self._again or name in self._done):
            return dict(known)
        began = time.process_time()
        value = dict(make())
        print(f"{name}: {time.process_time() - began:.1f} s", file=sys.stderr, flush=True)
        self.values[name] = value
        self._done.add(name)
        self._save()
        return value

    def _save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(exist_ok=True)
        lines = [
            f"{json.dumps(name)}: {json.dumps(self.values[name])}" for name in sorted(self.values)
        ]
        self._path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
