"""Protects that Ctrl-C in the moment of a fork is heard, and that no child is left behind."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from engine.children import fork
signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork({when}=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    fork("child", lambda pipe: pipe.poll(60) and None)
except KeyboardInterrupt:
    print("heard")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("alone")
"""


@pytest.mark.parametrize("when", ["before", "after_in_parent"])
def test_ctrl_c_in_the_moment_of_a_fork_is_heard(when):
    program = [sys.executable, "-c", PROGRAM.format(when=when)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("heard\nalone\n", "")


STARTED = """
import os, signal
from engine.children import started
signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork({when}=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    started(["sleep", "600"]).wait()
    print("the program heard it")
except KeyboardInterrupt:
    print("heard")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("alone")
"""


@pytest.mark.parametrize(
    ("when", "by"),
    [
        ("before", "heard"),
        ("after_in_parent", "heard"),
        ("after_in_child", "the program heard it"),
    ],
)
def test_ctrl_c_in_the_moment_in_which_a_program_is_started_is_heard(when, by):
    program = [sys.executable, "-c", STARTED.format(when=when)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{by}\nalone\n", "")


def test_a_program_hears_ctrl_c_as_before():
    text = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)"
    text += "; signal.raise_signal(signal.SIGINT)"
    program = f"from engine.children import started; started({[sys.executable, '-c', text]}).wait()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


KILLED = """
import os, signal, time
from engine.children import fork
child = fork("child", lambda pipe: time.sleep(600))
os.write(1, b"%d" % child.pid)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_waits_for_nothing_of_its_parent_ends_with_it():
    program = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
    with program:
        child = int(program.stdout.read(1) + program.stdout.read1())
        try:
            program.communicate(timeout=30)  # nobody has its output any more
        except subprocess.TimeoutExpired:
            os.kill(child, signal.SIGKILL)
            raise
    assert program.returncode == -signal.SIGKILL
