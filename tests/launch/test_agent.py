"""The exit status of a command whose torchrun ends well, badly, or is killed."""

import os
import signal
import sys

import pytest

from engine import agent

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SAYS = "import os; open(os.environ['LENDKV_STATUS_FILE'], 'w').write('{}'); raise SystemExit({})"


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        (SAYS.format(0, 0), 0, ""),
        (SAYS.format(2, 0), 2, ""),
        (SAYS.format(1, 1), 1, ""),
        (SAYS.format(0, 1), 1, "a process of it, was ended from outside or failed"),
        ("raise SystemExit(3)", 3, "a process of it, was ended from outside or failed"),
        (KILLED, 137, "torchrun was killed (signal 9)"),
    ],
)
def test_nobody_takes_ranks_that_failed_for_ranks_that_ended(
    monkeypatch, capsys, program, status, said
):
    monkeypatch.setattr(agent, "torchrun", lambda *_: [sys.executable, "-c", program])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("LENDKV_STATUS_FILE", raising=False)
    assert agent.run(3, ["serve"]) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert all(said in line and "all 3 have ended with it" in line for line in lines)
    assert "LENDKV_STATUS_FILE" not in os.environ
