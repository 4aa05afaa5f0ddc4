"""Ctrl-C at any moment, a parent that is killed: no traceback, no orphan."""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from command import Command
from tiny_checkpoint import make_tiny_checkpoint

from engine.cli import main
from engine.folder import sweep
from engine.sim import simulate as simulation
from engine.sim.history import Found

INTERRUPTED = 130


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupts")
    path = folder / "recipe.yaml"
    path.write_text(
        f"instances: 1\nmodel: {{path: {make_tiny_checkpoint(folder / 'model')}, dtype: float32}}\n"
        "pool: {num_blocks: 24, block_tokens: 8}\nscheduler: {max_step_tokens: 32}\n"
        "serve: {port: 0}\ngenerate: {prompt: hello}\n"
    )
    return path


@pytest.fixture
def deaf():
    """A server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def interrupt(command):
    """As a terminal does: all of the command's processes hear it."""
    os.killpg(command.process.pid, signal.SIGINT)
    done = command.finish()
    assert "Traceback" not in done.err, done.err
    assert done.status == INTERRUPTED, done.err
    return done


def is_loading(command):
    """Some of what it imports is there, by far not all."""
    with suppress(OSError):
        return "_multiarray_umath" in Path(f"/proc/{command.process.pid}/maps").read_text()
    return False


@pytest.mark.parametrize(
    "words", ["simulate", "plan", "doctor", "serve", "generate", "bench serve"]
)
def test_ctrl_c_while_the_program_is_being_loaded(recipe, words):
    given = [recipe] if words in ("doctor", "serve", "generate") else []
    command = Command(*words.split(), *given)
    command.wait_until(lambda: is_loading(command))
    interrupt(command)


@pytest.mark.parametrize("num_processes", [2, 3, 4])
@pytest.mark.parametrize("verb", ["serve", "generate"])
def test_ctrl_c_while_an_instance_starts(recipe, verb, num_processes):
    command = Command(verb, recipe)
    command.wait_until(lambda: len(command.pids()) >= num_processes)
    interrupt(command)


@pytest.mark.parametrize("num_processes", [2, 5, 9])
def test_ctrl_c_while_a_cluster_starts(recipe, num_processes, tmp_path):
    command = Command("serve", recipe, "instances=2", TMPDIR=str(tmp_path))
    command.wait_until(lambda: len(command.pids()) >= num_processes)
    interrupt(command)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_a_simulation_with_its_workers():
    command = Command("simulate", "seeds=100000", "workers=2")
    command.wait_until(lambda: len(command.pids()) >= 3)
    assert interrupt(command).err == ""


def test_ctrl_c_shows_the_histories_that_are_done(monkeypatch, capsys):
    def ends(*_, **__):
        yield Found(7, 0, "", [], {}, {}, {})
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "_run", ends)
    assert main(["simulate", "seeds=9"]) == INTERRUPTED
    said = capsys.readouterr()
    assert said.out.startswith("Interrupted: 1 of 9 histories were done by then.\n1 histories, ")
    assert said.err == ""


def test_ranks_that_are_killed_leave_no_folder(recipe, tmp_path):
    command = Command("serve", recipe, "instances=2", TMPDIR=str(tmp_path))
    command.wait_until(lambda: len(list(tmp_path.glob("**/gateway.journal"))) == 1)
    (agent,) = command.children(command.process.pid)
    os.kill(agent, signal.SIGKILL)
    done = command.finish()
    assert done.status == 128 + signal.SIGKILL
    assert "torchrun was killed (signal 9); all 2 have ended with it" in done.err
    assert not list(tmp_path.iterdir())


def test_ranks_that_are_being_loaded_end_with_a_command_that_is_killed(recipe, tmp_path):
    command = Command("serve", recipe, "instances=2", TMPDIR=str(tmp_path))
    command.wait_until(lambda: len(command.pids()) >= 4)
    command.process.kill()
    assert command.finish().status == -signal.SIGKILL
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


class AtItsForks(Command):
    """Ctrl-C in the moment in which each process of it is forked."""

    def program(self):
        code = (
            "import os, signal; from engine.__main__ import run; "
            "os.register_at_fork(after_in_child=lambda: os.killpg(0, signal.SIGINT)); "
            "raise SystemExit(run())"
        )
        return ["-c", code]


class SwallowedOnce(Command):
    """Ctrl-C in a library that makes something else of it."""

    def program(self):
        code = """
import os, signal, sys
from engine.__main__ import run

class Finder:
    def find_spec(name, path, target=None):
        if name == "omegaconf":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise AttributeError(name)

sys.meta_path.insert(0, Finder)
raise SystemExit(run())
"""
        return ["-c", code]


@pytest.mark.parametrize("verb", ["plan", "simulate", "doctor", "generate"])
def test_ctrl_c_that_a_library_would_swallow(recipe, verb):
    done = SwallowedOnce(verb, *([recipe] if verb in ("doctor", "generate") else [])).finish()
    assert (done.status, done.out, done.err) == (INTERRUPTED, "", "")


def test_ctrl_c_while_workers_of_a_simulation_are_started():
    done = AtItsForks("simulate", "seeds=100000", "workers=3").finish()
    assert (done.status, done.err) == (INTERRUPTED, "")


def test_ctrl_c_while_a_process_of_chaos_is_forked(recipe, tmp_path):
    sizes = ["instances=3", "pool.sizes=[24,24,24]", "transport.name=tcp"]
    command = AtItsForks("chaos", recipe, *sizes, TMPDIR=str(tmp_path))
    interrupted = command.finish()
    assert (interrupted.status, interrupted.err) == (INTERRUPTED, "")
    assert not list(tmp_path.iterdir())


def test_workers_end_with_a_simulation_that_is_killed():
    command = Command("simulate", "seeds=100000", "workers=2")
    command.wait_until(lambda: len(command.pids()) >= 3)
    command.process.kill()
    assert command.finish().status == -signal.SIGKILL


@pytest.mark.parametrize("words", ["explain cmpl-0 serve.port={}", "bench serve --port {}"])
def test_ctrl_c_while_a_server_does_not_answer(deaf, words):
    command = Command(*words.format(deaf.getsockname()[1]).split())
    deaf.settimeout(120)
    there, _ = deaf.accept()
    with there:
        interrupt(command)
