"""Shows that the tests can fail: breaks the code on purpose, one patch at a time.

    python tests/mutations/run.py [NAME...]

Each ``NAME.patch`` beside this file starts with ``# test: <pytest node id>``: the test that passes
without the patch and must fail with it. A second line ``# needs: <flag>`` names what the processor
must have, as /proc/cpuinfo does; elsewhere it is left out. Works on a copy of the tree. Exits 1
when a mutation survives, a patch no longer applies, or a test fails without its patch.
HYPOTHESIS_PROFILE names the profile; ci by default, whose examples are always the same.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.native.library import processor_flags

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PASSED, FAILED = 0, 1
"""exit codes of pytest; others mean that the test did not run"""
CAUGHT, NOT_HERE = "caught", "is of no effect on this processor"
NEEDS = "# needs: "
NO_SHRINKING = """
from hypothesis import Phase, settings

def pytest_collection():
    settings.register_profile("unshrunk", settings(), phases=[Phase.explicit, Phase.generate])
    settings.load_profile("unshrunk")
"""
"""a pytest plugin: whether a mutation is caught does not need the smallest example"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="*", metavar="NAME")
    names = arguments.parse_args().names or sorted(path.stem for path in HERE.glob("*.patch"))
    verdicts = {}
    with tempfile.TemporaryDirectory(prefix="lendkv-mutations-") as folder:
        tree = Path(folder)
        _copy_tree(tree)
        (tree / "no_shrinking.py").write_text(NO_SHRINKING)
        baseline: dict[str, int] = {}
        for name in names:
            verdicts[name] = _judge(HERE / f"{name}.patch", tree, baseline)
            print(f"{name:40} {verdicts[name]}", flush=True)
    num_bad = sum(verdict not in (CAUGHT, NOT_HERE) for verdict in verdicts.values())
    num_caught = sum(verdict == CAUGHT for verdict in verdicts.values())
    print(f"{num_caught} of {len(names)} mutations caught, {num_bad} not")
    return min(num_bad, 1)


def _judge(patch: Path, tree: Path, baseline: dict[str, int]) -> str:
    if not patch.exists():
        return "no such patch"
    key, _, test = patch.read_text().partition("\n")[0].partition(": ")
    if key != "# test" or not test:
        return "has no line '# test: <pytest node id>'"
    wanted = [
        line[len(NEEDS) :] for line in patch.read_text().split("\n") if line.startswith(NEEDS)
    ]
    if not processor_flags().issuperset(wanted):
        return NOT_HERE
    if test not in baseline:
        baseline[test] = _run(test, tree)
    if baseline[test] != PASSED:
        return f"BASELINE: {test} exits {baseline[test]} without the patch"
    if not _patch(patch, tree):
        return "DOES NOT APPLY"
    try:
        code = _run(test, tree)
    finally:
        _patch(patch, tree, "--reverse")
    if code == PASSED:
        return f"SURVIVED {test}"
    return CAUGHT if code == FAILED else f"BROKEN: {test} exits {code}"


def _copy_tree(tree: Path) -> None:
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def _patch(patch: Path, tree: Path, *options: str) -> bool:
    apply = ["git", "apply", "--whitespace=nowarn", *options, str(patch)]
    return not subprocess.run(apply, cwd=tree, capture_output=True, check=False).returncode


def _run(test: str, tree: Path) -> int:
    """Exit code of pytest in a process that imports the copy only."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "tests")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    plugins = ["-p", "no:cacheprovider", "-p", "no_shrinking"]
    profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
    options = ["-q", "-x", *plugins, f"--hypothesis-profile={profile}"]
    command = [sys.executable, "-m", "pytest", *options, test]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
