"""Protects the event log: run again, it comes to the same state, and a wrong one is found out."""

import json

import pytest

from engine.errors import ConfigError
from engine.scheduler.events import EventLog, Header, RecordedScheduler
from engine.scheduler.scheduler import Scheduler
from engine.sim import cluster, history
from engine.sim.config import SimConfig
from engine.sim.replay import replay
from engine.sim.simulate import simulate


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """One log for each life of each step, of a history full of faults."""
    folder, opened = tmp_path_factory.mktemp("events"), []

    def recorded(config, *, placement, **parts):
        header = Header(config, placement=names[type(placement)], options={}, **parts)
        path = folder / f"step{parts['instance']}.{len(opened)}.events"
        opened.append(EventLog(path, header))
        return RecordedScheduler(opened[-1], config, placement=placement, **parts)

    names = {cluster.PLACEMENTS.load(name): name for name in SimConfig().placements}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "Scheduler", recorded)
        recorded.Config = Scheduler.Config
        found = history.run(SimConfig(), 7)
    for log in opened:
        log.close()
    assert found.is_clean
    assert found.fingerprint == history.run(SimConfig(), 7).fingerprint  # recording changes nothing
    return sorted(folder.iterdir())


def test_every_log_comes_to_the_same_state(logs):
    figures = [replay(str(path)) for path in logs]
    assert [one["differs_at"] for one in figures] == [None] * len(logs)
    assert sum(one["inputs"] for one in figures) > 2000
    assert sum(one["hashes"] for one in figures) > 20


def test_the_verb_says_so(logs, capsys):
    largest = max(logs, key=lambda path: path.stat().st_size)
    assert simulate(None, [f"replay={largest}"], json_only=True, trace=False) == 0
    assert json.loads(capsys.readouterr().out) == replay(str(largest))
    assert simulate(None, [f"replay={largest}"], json_only=False, trace=False) == 0
    assert "the same as in the log" in capsys.readouterr().out


def test_a_scheduler_that_does_something_else_is_found_out(logs, monkeypatch, capsys):
    largest = max(logs, key=lambda path: path.stat().st_size)
    monkeypatch.setattr(Scheduler, "on_lost", lambda self, instance, now: None)
    assert simulate(None, [f"replay={largest}"], json_only=False, trace=False) == 1
    assert "differs" in capsys.readouterr().out
    monkeypatch.setattr(Scheduler, "schedule", lambda self, now: None)
    assert simulate(None, [f"replay={largest}"], json_only=False, trace=False) == 1
    assert "raises AttributeError" in capsys.readouterr().out


def test_a_log_whose_writer_was_killed_is_run_as_far_as_it_goes(logs, tmp_path):
    largest = max(logs, key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(data[: len(data) * 2 // 3])
    figures = replay(str(torn))
    assert figures["differs_at"] is None
    assert 0 < figures["inputs"] < replay(str(largest))["inputs"]


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\x05\x00\x00\x00hello"])
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="replay="):
        replay(str(path))


def test_a_log_is_never_written_over(logs):
    with pytest.raises(ConfigError, match="event_log"):
        EventLog(logs[0], None)
