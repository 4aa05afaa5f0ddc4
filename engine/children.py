"""Child processes: forked or started, watched, and never left behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from engine.errors import LendKVError
from engine.parent import die_with_parent

PR_SET_NAME = 15
END_SIGNAL = signal.SIGUSR1
"""what a supervisor ends its children with; they ignore what a terminal or torchrun sends"""
PARENT_S = 0.2
"""a parent that is killed loses its pipes a moment before its children are killed"""
TOLD = (signal.SIGINT, signal.SIGTERM)
"""how a terminal or torchrun tells a command to end"""
ONE_S = 0.5
"""signals within so long are one: a terminal and torchrun both tell of the same Ctrl-C"""
USER_ERROR = 2
"""exit status of a child whose failure is the user's to mend; its sentences were sent"""
LOST_ANOTHER = 3
"""exit status of a child that ends because one that it needs has ended"""


def call_oneself(name: str) -> None:
    """What ``ps`` and ``top`` show of this process; the kernel keeps 15 letters."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, f"lendkv-{name}".encode())


@dataclass(slots=True)
class Child:
    """A forked process and the pipe to it."""

    name: str
    pid: int
    pipe: Connection
    status: int | None = None
    """exit status once it has ended; minus the signal if one killed it"""

    def poll(self) -> int | None:
        if self.status is None:
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(raw)
        return self.status

    def messages(self) -> list[dict[str, Any]]:
        """What the child has said since the last call."""
        said = []
        try:
            while self.pipe.poll():
                said.append(self.pipe.recv())
        except EOFError:  # else it would look readable for ever
            self.pipe.close()
        except OSError:
            pass
        return said

    def say(self, **message: Any) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def started(command: Sequence[str], **how: Any) -> "subprocess.Popen[bytes]":
    """A program that the kernel ends with this process; ``how`` is as Popen has it.

    Nothing is heard while it is forked: the child would tell of it in a traceback.
    """
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)

    def begin() -> None:
        die_with_parent(parent)
        for number in TOLD:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    process = None
    try:
        process = subprocess.Popen(command, preexec_fn=begin, **how)
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except KeyboardInterrupt:  # nobody will know of it
            if process is not None:
                process.kill()
                process.wait()
            raise
    return process


def fork(name: str, main: Callable[[Connection], int | None]) -> Child:
    """Run ``main(pipe)`` in a child; it inherits this process's memory maps.

    Must be called by a process with one thread only (so before torch or ZMQ are used in it).
    """
    ours, theirs = Pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)  # Python's hooks at a fork swallow them
    pid = os.fork()
    if pid:
        theirs.close()
        del theirs  # still unheard: its destructor would swallow one
        child = Child(name, pid, ours)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except KeyboardInterrupt:  # nobody will know of it
            stop([child], patience_s=0.0)
            raise
        return child
    status = 1
    try:
        ours.close()
        die_with_parent(parent)
        call_oneself(name)
        # Terminal and torchrun signal the whole group: the supervisor alone decides what it means.
        for number in TOLD:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        status = main(theirs) or 0
    except LendKVError as error:
        with contextlib.suppress(OSError):
            theirs.send({"error": str(error)})
        status = USER_ERROR
    except BaseException as error:
        if isinstance(error, EOFError | ConnectionError):
            time.sleep(PARENT_S)
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def stop(children: list[Child], patience_s: float = 3.0) -> None:
    """Ask all to end, then make them."""
    for child in children:
        child.signal(END_SIGNAL)
    deadline = time.monotonic() + patience_s
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in children:
        child.signal(signal.SIGKILL)
    for child in children:
        while child.poll() is None:
            time.sleep(0.005)
        child.pipe.close()
