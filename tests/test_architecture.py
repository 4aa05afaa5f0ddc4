"""The shape of the code: layers, sizes and names; what a supervisor may import."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from engine.attention import BACKENDS, KERNELS
from engine.comm import TRANSPORTS
from engine.memory import POOLS
from engine.scheduler import PLACEMENTS

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "engine").rglob("*.py"))
MAX_LINES = 300


def test_imports_follow_the_layers():
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    program = program.replace("lint_imports()", "lint_imports(no_cache=True)")
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_named_after_what_it_is(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in {"utils", "util", "helpers", "common", "misc", "manager"}


def test_no_two_test_files_have_one_name():
    """pytest imports them by their bare names."""
    found = (ROOT / "tests").rglob("*.py")
    names = Counter(path.name for path in found if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("registry", [BACKENDS, KERNELS, TRANSPORTS, POOLS, PLACEMENTS])
def test_registries_name_classes_that_exist(registry):
    for target in registry.entries.values():
        module, _, name = target.partition(":")
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}, target


def test_a_supervisor_imports_no_torch():
    program = "import sys, engine.launch, engine.cli; raise SystemExit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_a_step_imports_no_jinja():
    """Chats are made where they arrive; it would be 4 MB in each instance."""
    program = (
        "import sys, engine.roles, engine.build\n"
        "engine.roles.load_tokenizer('smollm2'); raise SystemExit('jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_help_imports_nothing_heavy():
    heavy = {"torch", "numpy", "omegaconf", "yaml", "rich", "zmq", "aiohttp", "jinja2"}
    program = (
        "import sys; from engine.__main__ import run; sys.argv[1:] = ['--version']\n"
        "try: run()\n"
        f"except SystemExit: print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["set()"], done.stderr


def test_every_mutation_is_of_the_code_as_it_is():
    """Whether it is caught is shown by ``make mutations``, which takes much longer."""
    check = ["git", "apply", "--check", "--whitespace=nowarn"]
    patches = sorted((ROOT / "tests" / "mutations").glob("*.patch"))
    failed = [
        patch.stem
        for patch in patches
        if subprocess.run([*check, str(patch)], cwd=ROOT, capture_output=True).returncode
    ]
    assert patches
    assert not failed
