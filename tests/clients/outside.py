"""The clients' own venv (``make clients``), and how its programs are run against our server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENTS = HERE.parents[1] / ".clients"
sys.path.append(str(HERE.parent / "server"))

needs_clients = pytest.mark.skipif(
    not (CLIENTS / ".installed").exists(), reason="the outside clients are missing: make clients"
)
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DO_NOT_TRACK": "1",
}


def run(tmp_path, *command, **environment):
    """What a program of that venv prints; it sees nothing of ours but the server."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
    done = subprocess.run(
        [CLIENTS / "bin" / command[0], *command[1:]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=kept | OFFLINE | {"HOME": str(tmp_path)} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_json(tmp_path, *command, **environment):
    """The JSON in the last line of what it prints."""
    return json.loads(run(tmp_path, *command, **environment).splitlines()[-1])
