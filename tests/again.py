"""Runs the failed tests of the last run once more, alone: ``python tests/again.py``.

Tests of processes fail where a machine stands still. More than a few, or tests that could not even
be collected, are no accident of this kind.
"""

import json
import sys
from pathlib import Path

import pytest

MOST = 3
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    failed = list(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not failed:
        print("no test failed: what went wrong did so before or after them", file=sys.stderr)
        return 1
    if uncollected := [one for one in failed if "::" not in one]:
        print(f"not collected, so not run again: {', '.join(uncollected)}", file=sys.stderr)
        return 1
    if len(failed) > MOST:
        print(f"{len(failed)} tests failed: too many for an accident", file=sys.stderr)
        return 1
    return int(pytest.main(failed))


if __name__ == "__main__":
    raise SystemExit(main())
