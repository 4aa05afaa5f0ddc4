"""Protects docs/promises.md: each promise has tests and mutations, and they are what it names."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = {
    int(number): (re.findall(r"`([^`]+)`", tests), re.findall(r"`([^`]+)`", mutations))
    for number, tests, mutations in re.findall(
        r"^\| (\d+) [^|]+\|([^|]+)\|([^|]+)\|$",
        (TESTS.parent / "docs" / "promises.md").read_text(),
        re.MULTILINE,
    )
}


def test_all_ten_are_there():
    assert list(ROWS) == list(range(1, 11))
    assert all(tests and mutations for tests, mutations in ROWS.values())


@pytest.mark.parametrize("test", [test for tests, _ in ROWS.values() for test in tests])
def test_a_named_test_exists(test):
    path, _, name = test.partition("::")
    assert re.search(rf"^(def {name}\(|{name} = )", (TESTS / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("number", "mutation"), [(n, name) for n, (_, names) in ROWS.items() for name in names]
)
def test_a_named_mutation_is_caught_by_a_test_named_beside_it(number, mutation):
    first = (TESTS / "mutations" / f"{mutation}.patch").read_text().partition("\n")[0]
    caught_by = first.removeprefix("# test: tests/")
    assert any(test.startswith(caught_by) for test in ROWS[number][0]), caught_by
