"""Protects that a command's folder goes with it, however it ends, and that no other folder does."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from engine.errors import ConfigError
from engine.folder import LOCK, Folder, sweep

KILLED = """
import os, signal, time
from engine.folder import Folder
with Folder() as folder:
    (folder / "gateway.journal").write_text("a request")
    {forked}
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _temporary(monkeypatch, tmp_path):
    """A temporary folder of its own for this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def killed(forked="pass"):
    """What a command says that kills itself, and maybe a child of it that stays."""
    program = [sys.executable, "-c", KILLED.format(forked=forked)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        assert process.wait() == -signal.SIGKILL
    return said


def test_it_goes_with_the_command(tmp_path):
    with Folder() as folder, Folder(folder) as inner:
        assert inner.parent == folder
        (inner / "file").touch()
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_command_left_goes_with_the_next(tmp_path):
    killed()
    (left,) = tmp_path.iterdir()
    with Folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert left != folder


def test_it_stays_while_a_process_of_the_command_lives(tmp_path):
    stays = 'pid = os.fork() or time.sleep(600); os.write(1, b"%d\\n" % pid); os.close(1)'
    child = int(killed(stays))
    (left,) = tmp_path.iterdir()
    try:
        sweep(tmp_path)
        assert (left / "gateway.journal").exists()
    finally:
        os.kill(child, signal.SIGKILL)
    while left.exists():  # until the kernel has ended it
        sweep(tmp_path)


def test_what_others_have_there_stays(tmp_path):
    (tmp_path / "lendkv-main").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).touch()
    with Folder():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lendkv-main", "other"]


def test_where_none_can_be_made_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no folder .* in .*missing: .*; set TMPDIR"):
        Folder(tmp_path / "missing").__enter__()
