"""``tests/again.py``: what failed runs once more, by its name; what is no accident does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AGAIN = Path(__file__).with_name("again.py")
TESTS = """
import pytest

def test_right():
    pass

def test_wrong():
    assert False

@pytest.mark.parametrize("value", [1, 2])
def test_values(value):
    assert value == 1
"""


def again(folder, failed=None):
    """As after a run in which these failed; None: pytest left no word."""
    (folder / "test_some.py").write_text(TESTS)
    if failed is not None:
        told = folder / ".pytest_cache/v/cache/lastfailed"
        told.parent.mkdir(parents=True)
        told.write_text(json.dumps(dict.fromkeys(failed, True)))
    return subprocess.run([sys.executable, AGAIN], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("failed", [None, []])
def test_where_nothing_failed_there_is_nothing_to_excuse(tmp_path, failed):
    done = again(tmp_path, failed)
    assert done.returncode == 1
    assert "no test failed" in done.stderr


def test_what_failed_and_is_right_now_is_an_accident(tmp_path):
    done = again(tmp_path, ["test_some.py::test_right", "test_some.py::test_values[1]"])
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("wrong", ["test_wrong", "test_values[2]"])
def test_what_fails_again_is_none(tmp_path, wrong):
    done = again(tmp_path, ["test_some.py::test_right", f"test_some.py::{wrong}"])
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout


def test_a_file_that_was_not_collected_runs_nothing(tmp_path):
    done = again(tmp_path, ["test_some.py", "test_some.py::test_right"])
    assert done.returncode == 1
    assert done.stderr == "not collected, so not run again: test_some.py\n"
    assert not done.stdout


def test_more_than_three_are_no_accident(tmp_path):
    one = "test_some.py::test_right"
    done = again(tmp_path, [one, "a::b", "c::d", "e::f"])
    assert done.returncode == 1
    assert "4 tests failed: too many" in done.stderr
    assert not done.stdout
