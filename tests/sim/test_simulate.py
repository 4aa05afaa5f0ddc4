"""Protects the promises of the whole protocol: real machines, simulated processes and faults."""

import json

import pytest

from engine.errors import ConfigError
from engine.sim import history
from engine.sim.config import SimConfig
from engine.sim.simulate import load, shrink, simulate

SMALL = SimConfig(instances=5, requests=20, faults=12, arrive_s=3.0)
FIGURES = ("violations", "lost_blocks", "leaked_blocks", "wrong_reads", "unfinished_requests")


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_leaked_wrong_or_unfinished(seed):
    found = history.run(SimConfig(), seed)
    assert found.violations == []
    assert (found.lost_blocks, found.leaked_blocks, found.unfinished) == (0, 0, [])
    assert found.messages > 2000
    assert found.notes.get("wrong_reads", 0) == 0


def test_the_same_seed_gives_the_same_history():
    one, same, other = (history.run(SMALL, seed) for seed in (3, 3, 4))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.coverage == same.coverage


def test_a_quiet_cluster_needs_no_recompute_by_faults():
    calm = SimConfig(
        instances=5,
        requests=8,
        faults=0,
        fate_share=0,
        ambush_share=0,
        pool_blocks=[40, 50],
        arrive_s=3.0,
        drift=0.0,
    )
    found = history.run(calm, 1)
    assert found.is_clean
    assert found.notes["recomputed_tokens"] == 0


def test_the_verb_prints_the_figures_of_the_acceptance(capsys):
    overrides = ["instances=4", "requests=8", "faults=4", "seeds=2", "workers=1"]
    assert simulate(None, overrides, json_only=True, trace=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert [report[name] for name in FIGURES] == [0, 0, 0, 0, 0]
    assert report["histories"] == 2
    assert report["coverage"]["cells"] > report["coverage"]["covered"] > 0


def test_a_failing_history_shrinks_to_what_it_needs(monkeypatch):
    def fails(config, seed, *, skip_faults, skip_requests):
        found = history.Found(seed, 0, "", [], {}, {}, {})
        if 3 not in skip_faults and 5 not in skip_requests:
            found.violations.append("as it happens")
        return found

    monkeypatch.setattr(history, "run", fails)
    assert "faults [3] and requests [5]" in shrink(SMALL, 0)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("instances=two", "instances"),
        ("colour=red", "colour"),
        ("kinds=[flood]", "flood"),
        ("workers=0", "workers is 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(override, names):
    with pytest.raises(ConfigError, match=names):
        load(None, [override])
