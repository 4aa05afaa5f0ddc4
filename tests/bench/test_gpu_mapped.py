"""bench.gpu_mapped with pools in shared memory in place of a GPU's: its processes and its faults.

A holder is killed while its memory is read: what is read stays, is not believed, and is unmapped.
"""

import subprocess
import sys
from dataclasses import asdict
from functools import partial
from json import dumps, loads
from pathlib import Path

import pytest
import torch

from bench.gpu_mapped import MappedCase, check_mapped
from engine.attention.triton.backend import why_not

ROOT = Path(__file__).parents[2]
SMALL = {"device": "cpu", "dtype": "float32", "heads": 4, "kv_heads": 2, "dim": 8, "tokens": 4}
KERNELS = [
    "native",
    pytest.param("triton", marks=pytest.mark.skipif(bool(why_not()), reason=why_not())),
]


@pytest.mark.parametrize("local", KERNELS)
def test_a_reader_survives_its_holders_and_reads_what_they_hold(local: str) -> None:
    case = MappedCase(**SMALL, local=local, rows=5, leaves=3)
    assert check_mapped(case, 2).endswith("; the reader survived all 2 deaths of its holder")


def test_memory_of_the_dead_is_unmapped() -> None:
    case = MappedCase(**SMALL, local="native", rows=2, leaves=1)
    words = [sys.executable, "-m", "bench.gpu_mapped", "read", dumps(asdict(case)), "2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [loads(line) for line in done.stdout.splitlines()]
    assert [one["maps"] for one in found] == [1, 1], "its own pool's, and no other"


def test_wrong_partials_end_it_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"error": 0.5, "error alone": 0.0, "mapped": True, "poisoned before": 0, "poisoned": 2}

    def told(changes: dict[str, object], status: int = 0) -> str:
        said = f"import sys; print({dumps(line | changes)!r}); sys.exit({status} and 'CUDA: x')"
        stand_in = partial(subprocess.Popen, [sys.executable, "-c", said])
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", lambda words, **options: stand_in(**options))
            return check_mapped(MappedCase(), 2)

    with pytest.raises(SystemExit, match=r"off by 0.5 in round 1"):
        told({})
    with pytest.raises(SystemExit, match="not what they should be"):
        told({"error": 0.0, "poisoned": 1})
    assert told({"error": 0.0}, 1).endswith("did not survive round 2 of 2: CUDA: x")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_in_a_sentence() -> None:
    words = [sys.executable, "-m", "bench.gpu_mapped"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "bench.gpu_mapped needs a CUDA GPU"
