"""Protects event logs: run again, they come to the same state, and a wrong machine is found out."""

import json
import struct
from pathlib import Path

import msgspec
import pytest
from recordings import pool_header, recorded_history

from engine.errors import ConfigError
from engine.events import read, record
from engine.memory.loans import Loans
from engine.memory.recalls import Recalls
from engine.memory.rmanager import RManager
from engine.memory.tables import Tables
from engine.protocol import VERSION
from engine.scheduler.gmanager import GManager
from engine.scheduler.membership import Membership
from engine.scheduler.performance import Performance
from engine.scheduler.scheduler import Scheduler
from engine.sim import history
from engine.sim.config import SimConfig
from engine.sim.replay import KINDS, replay
from engine.sim.simulate import simulate

EACH = pytest.mark.parametrize("kind", ["step", "pool", "planner"])
SEED = 7
SELDOM = {"refuse", "on_fetched", "tick"}
"""inputs that not every history has; the simulated step only ticks within schedule"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Of a history full of faults."""
    return recorded_history(tmp_path_factory.mktemp("events"), SEED)


@pytest.fixture
def largest(recorded, kind):
    return str(recorded.logs[kind][0])


def test_recording_changes_nothing(recorded):
    plain = history.run(SimConfig(), SEED)
    assert recorded.found.is_clean
    assert recorded.found.fingerprint == plain.fingerprint
    assert recorded.found.coverage == plain.coverage


@EACH
def test_every_life_comes_to_the_same_state(recorded, kind):
    figures = [replay(str(path)) for path in recorded.logs[kind]]
    assert [one["differs_at"] for one in figures] == [None] * len(figures)
    assert {one["machine"].split()[0] for one in figures} == {kind}
    assert len(figures) > (1 if kind == "planner" else SimConfig().instances)  # some died
    assert sum(one["inputs"] for one in figures) > 2000
    assert sum(one["hashes"] for one in figures) > 20


@EACH
def test_all_that_a_machine_hears_is_in_some_log(recorded, kind):
    heard = set()
    for path in recorded.logs[kind]:
        header, events = read(str(path), KINDS)
        heard |= {name for name, _ in events}
    assert header.INPUTS.keys() - heard <= SELDOM


@EACH
def test_the_verb_says_so(largest, kind, capsys):
    assert simulate(None, [f"replay={largest}"], json_only=True, trace=False) == 0
    assert json.loads(capsys.readouterr().out) == replay(largest)
    assert simulate(None, [f"replay={largest}"], json_only=False, trace=False) == 0
    assert "the same as in the log" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "machine", "method", "instead"),
    [
        ("step", Scheduler, "on_lost", lambda self, instance, now: None),
        ("pool", Recalls, "freeze", lambda self, num_blocks, for_s, now: None),
        ("pool", Tables, "detach", lambda self, sequence, peer: None),
        ("pool", Loans, "overdue", lambda self, now: []),
        ("pool", RManager, "_recall", lambda self, recalled: []),
        ("planner", GManager, "tick", lambda self, now: []),
        ("planner", Membership, "_seen", lambda self, instance, peers, peer: None),
        ("planner", GManager, "_look_at_members", lambda self, now: None),
        ("planner", Performance, "learn", lambda self, samples: None),
    ],
)
def test_a_machine_that_does_something_else_is_found_out(
    recorded, kind, machine, method, instead, monkeypatch
):
    monkeypatch.setattr(machine, method, instead)
    assert any(replay(str(path))["differs_at"] for path in recorded.logs[kind])


def test_what_a_wrong_machine_raises_is_said(recorded, monkeypatch, capsys):
    largest = recorded.logs["step"][0]
    monkeypatch.setattr(Scheduler, "schedule", lambda self, now: 1 / 0)
    assert simulate(None, [f"replay={largest}"], json_only=False, trace=False) == 1
    assert "raises ZeroDivisionError" in capsys.readouterr().out


@EACH
def test_a_log_whose_writer_was_killed_is_run_as_far_as_it_goes(largest, kind, tmp_path):
    data = Path(largest).read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(data[: len(data) * 2 // 3])
    figures = replay(str(torn))
    assert figures["differs_at"] is None
    assert 0 < figures["inputs"] < replay(largest)["inputs"]


def frame(what):
    data = msgspec.msgpack.encode(what)
    return struct.pack("<I", len(data)) + data


OPENING = frame(pool_header())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "no event log"),
        (b"hello", "no event log"),
        (b"\x05\x00\x00\x00hello", "no event log"),
        (frame({"kind": "pool", "version": VERSION + 1}), "written by protocol"),
        (frame({"kind": "gateway", "version": VERSION}), "gateway"),
        (frame({"kind": "pool", "version": VERSION}), "missing required field"),
        (OPENING + frame(7), "no event log"),
        (OPENING + frame(["schedule", [1.0]]), "a pool 0 hears no 'schedule'"),
        (OPENING + frame(["tick", []]), "no event log"),
        (OPENING + frame(["tick", ["soon"]]), "no event log"),
    ],
)
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path, content, reason):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"replay=.*{reason}"):
        replay(str(path))


def test_a_log_is_never_written_over(recorded):
    with pytest.raises(ConfigError, match="event_log: .* cannot be made .*give a folder"):
        record(None, None, recorded.logs["pool"][0])
