"""The table of bench.peers: ratios are of runs of one round; a missing peer is a sentence."""

from pathlib import Path

import pytest

from bench.peers import table
from bench.peers.contenders import Absent, vllm
from bench.peers.llama_cpp import LlamaCpp

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
