"""``lendkv profile`` in true processes: the file is there and the simulator takes it; Ctrl-C leaves
neither file nor process.
"""

import os
import signal

import pytest
from command import Command
from tiny_checkpoint import make_tiny_checkpoint

from engine.errors import ConfigError
from engine.sim.hardware.profile import profile_of
from engine.sim.planning.plan import answered, load

SMALL = ("model.dtype=float32", "pool.block_tokens=8", "scheduler.max_step_tokens=32")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("profile") / "model", max_positions=512)


def test_a_tiny_model_is_profiled_and_planned_with(model, tmp_path):
    path = tmp_path / "machine.yaml"
    done = Command("profile", model, "--output", path, *SMALL).finish()
    assert done.status == 0, done.err
    assert "decode of 32" in done.err
    assert f"written: {path}" in done.out
    measured = profile_of(str(path)).measured
    assert measured is not None
    assert measured.rows_s[0] > 0
    assert measured.sizes[0] == 2
    assert measured.maps
    given = [f"hardware={path}", f"model={model}", "devices=2", "context=64", "simulate=false"]
    _, [choice], _ = answered(load(None, given))
    assert choice.pace.tpot_s >= measured.rows_s[0]
    with pytest.raises(ConfigError, match="its steps were timed"):
        answered(load(None, [f"hardware={path}", "model=smollm2-135m", "context=64", "devices=2"]))


def test_ctrl_c_leaves_nothing(model, tmp_path):
    command = Command("profile", model, "--output", tmp_path / "machine.yaml", *SMALL)
    command.wait_until(lambda: len(command.supervisors()) == 2)
    os.kill(command.process.pid, signal.SIGINT)
    done = command.finish()
    assert done.status == 130, done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
