"""bench.gpu where there is no GPU: what it runs, its bounds, its table; its kernels interpreted."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_cases import MOST_BYTES, Case, Row, cases, small_cases, table
from engine.attention.triton.backend import is_interpreted, why_not

CASE = Case(batch=2, rows=3, keys=10, heads=4, kv_heads=2, dim=8, dtype="float16", tokens=4)
DEVICE = torch.device("cpu" if is_interpreted() else "cuda")
needs_triton = pytest.mark.skipif(bool(why_not()), reason=why_not())


def test_a_case_counts_what_is_read_and_multiplied() -> None:
    assert CASE.kv_bytes == 2 * 2 * 10 * 2 * 8 * 2
    # An 8-bit item each, and 4 bytes of scale to a row of 8.
    assert replace(CASE, kv="fp8").kv_bytes == 2 * 2 * 10 * 2 * (8 + 4)
    assert CASE.flops == 4 * 2 * (8 + 9 + 10) * 4 * 8
    assert CASE.bound_s(1e3, 1e12) == CASE.kv_bytes / 1e3
    assert CASE.bound_s(1e12, 1e3) == CASE.flops / 1e3


def test_cases_are_different_and_fit_a_gpu() -> None:
    for chosen in (cases(), small_cases()):
        assert len(set(chosen)) == len(chosen)
        assert max(case.kv_bytes for case in chosen) <= MOST_BYTES
        assert all(case.rows <= case.keys for case in chosen)
    assert {case.dtype for case in small_cases()} == {"float32", "float16", "bfloat16"}
    for chosen in (cases(), small_cases()):
        assert {case.kv for case in chosen} == {"", "int8", "fp8"}
    assert 0 < sum(case.asks_flex for case in cases()) < 20
    assert {case.rows == 1 for case in cases()} == {True, False}


def test_the_table_tells_shares_of_the_bound() -> None:
    scaled = Row(replace(CASE, kv="fp8"), 3e-6, 4e-6, 1e-6, 1e-6)
    text = table([scaled, Row(CASE, 6e-6, 8e-6, 2e-6, 1e-6, 9e-6, 7e-6)])
    head, eight, line = text.splitlines()
    assert head.split()[:7] == ["case", "dtypes", "attend", "merge", "write", "flash", "flex"]
    assert line.startswith("prefill 3, 2 x 10, 4/2x8")
    assert line.split()[-8:] == ["float16", "8.0", "2.0", "1.0", "9.0", "7.0", "6.0", "60%"]
    wanted = ["float16/fp8", "4.0", "1.0", "1.0", "-", "-", "3.0", "60%", "2.00"]
    assert eight.split()[-9:] == wanted


@needs_triton
@pytest.mark.parametrize(
    "changes", [{}, {"rows": 1, "dtype": "bfloat16"}, {"kv": "fp8"}, {"kv": "int8", "rows": 1}]
)
def test_the_check_passes_and_sees_what_is_wrong(changes: dict[str, object]) -> None:
    case = replace(CASE, **changes)
    gpu.check(DEVICE, [case])
    scene = gpu.Scene(case, DEVICE)
    scene.merge = lambda: scene.finished[0].zero_()  # type: ignore[method-assign]
    assert scene.error() > gpu.allowed(case)


@needs_triton
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rows", [1, 3])
def test_flex_attention_is_asked_for_the_same(rows: int) -> None:
    scene = gpu.Scene(replace(CASE, rows=rows), DEVICE)
    scene.attend()
    scene.merge()
    out_BHTD = scene.flex(compiled=False)()
    found = out_BHTD.transpose(1, 2).reshape(scene.finished[0].shape).float()
    torch.testing.assert_close(found, scene.finished[0], atol=2e-3, rtol=2e-3)


@needs_triton
def test_a_case_is_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(run: object) -> float:
        started = time.perf_counter()
        run()  # type: ignore[operator]
        return time.perf_counter() - started

    asked = []
    monkeypatch.setattr(gpu.flash, "by_pytorch", lambda *args: asked.append(args))
    rates = gpu.machine_rates(DEVICE, seconds, 16)
    row = gpu.measure(CASE, DEVICE, seconds, rates, gpu.Clock(0.0))
    assert min(row.attend_s, row.merge_s, row.write_s, row.flash_s, row.bound_s) > 0
    ((q, k, v, query_ends, key_ends, rows, keys, causal, scale),) = asked
    assert (q.shape, k.shape, v.shape) == ((6, 4, 8), (20, 2, 8), (20, 2, 8))
    assert (query_ends.tolist(), key_ends.tolist()) == ([0, 3, 6], [0, 10, 20])
    assert (rows, keys, causal, scale) == (3, 10, True, 8**-0.5)


@needs_triton
def test_flex_attention_is_timed_while_it_has_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.Scene, "flash", lambda scene: lambda: None)
    monkeypatch.setattr(gpu.Scene, "flex", lambda scene: lambda: None)
    case = replace(CASE, dtype="bfloat16", dim=128, rows=1)
    assert case.asks_flex
    clock = gpu.Clock(1e-9)
    rates = (1.0, 1.0)
    times = [gpu.measure(case, DEVICE, lambda run: 1.0, rates, clock).flex_s for _ in range(2)]
    assert times == [1.0, None]
    assert clock.left_s < 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("bench.gpu needs a CUDA GPU: ")
    assert len(done.stderr.splitlines()) == 1
