"""bench.peers: ratios are of runs of one round; a missing peer is a sentence; none outlives it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bench.peers import table
from bench.peers.contenders import Absent, output, vllm
from bench.peers.llama_cpp import LlamaCpp

BENCHMARK = """
import os, sys
from bench.peers.contenders import output
output([sys.executable, "-c", *sys.argv[1:]], dict(os.environ))
"""
CONTENDER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} is here")
time.sleep(600)
"""
RUNS = {
    "ours": [{"decode": 10.0}, {"decode": 30.0}, {"decode": 20.0}],
    "a": [{"decode": 20.0}, {"decode": 10.0}, {"decode": 10.0}],
    "b": [{"decode": 5.0}, {"decode": 20.0}, {"decode": 40.0}],
}


def test_the_better_peer_is_chosen_in_each_round() -> None:
    assert table.ratios(RUNS, "decode", "ours", ["a"]) == [0.5, 3.0, 2.0]
    assert table.ratios(RUNS, "decode", "ours", ["a", "b"]) == [0.5, 1.5, 0.5]


def test_a_peer_that_did_not_run_is_left_out() -> None:
    [head, a, b, better] = table.lines(RUNS, ["decode"], "ours", ["a", "b", "c"], ["a", "b"])
    assert head == "decode: ours 20 tokens/s"
    assert a.endswith("10 tokens/s, ratio 2.00 (0.50 to 3.00)")
    assert b.endswith("20 tokens/s, ratio 1.50 (0.50 to 2.00)")
    assert better.endswith("a and b, ratio 0.50 (0.50 to 1.50)")
    alone = list(table.lines(RUNS, ["decode"], "ours", ["a", "c"], ["a", "c"]))
    assert len(alone) == 2


def test_a_peer_that_is_not_installed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for make in (vllm, lambda threads: LlamaCpp(threads, "BF16")):
        with pytest.raises(Absent, match="make peers"):
            make(2)


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_contender_ends_with_the_benchmark(tmp_path: Path, number: signal.Signals) -> None:
    told = tmp_path / "told"
    benchmark = subprocess.Popen([sys.executable, "-c", BENCHMARK, CONTENDER, str(told)])
    while not (told.exists() and "here" in told.read_text()):
        assert benchmark.poll() is None
        time.sleep(0.01)
    contender = int(told.read_text().split()[0])
    assert is_running(contender)
    benchmark.send_signal(number)
    assert benchmark.wait() == -number
    while is_running(contender):  # or the test takes too long
        time.sleep(0.01)


def test_a_contender_that_fails_is_a_sentence() -> None:
    with pytest.raises(SystemExit, match="-c raise SystemExit.'no weights'. failed: no weights"):
        output([sys.executable, "-c", "raise SystemExit('no weights')"], dict(os.environ))
