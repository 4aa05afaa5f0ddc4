"""A real cluster under ``lendkv serve``: started, watched, joined, left, struck, and ended."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from engine.chaos import processes
from engine.chaos.schedule import Fault
from engine.chaos.watch import FOLDER
from engine.children import END_SIGNAL, started
from engine.comm.auth import KEY_VARIABLE
from engine.errors import LendKVError

STOP_S = 20.0
JOIN_S = 60.0
DUTY_S = 0.05
"""a slow process stands still and runs for so long in turn"""
LOOK_S = 0.1


class Cluster:
    """``recipe`` and ``overrides`` are those of the command; ``office``: the relay's, if any."""

    def __init__(
        self,
        recipe: str | None,
        overrides: Sequence[str],
        *,
        folder: Path,
        instances: int,
        callbacks: Sequence[str],
        office: Path | None,
    ) -> None:
        self.port = free_ports(instances + 2)
        self._planner_port = self.port + instances + 1
        self._instances = instances
        self._stderr = (folder / "stderr").open("w+")
        watch = json.dumps([*callbacks, "engine.chaos.watch:Watch"])
        self._command = [*([recipe] if recipe else []), *overrides, f"callbacks={watch}"]
        if office is not None:
            self._command += ["transport.name=engine.chaos.roads:Roads"]
            self._command += [f"transport.options.office={office}"]
        self._environment = os.environ | {
            FOLDER: str(folder),
            KEY_VARIABLE: os.environ.get(KEY_VARIABLE) or secrets.token_hex(32),
            "OMP_NUM_THREADS": "1",
        }
        self._root = self._run(
            "serve",
            *self._command,
            "serve.host=127.0.0.1",
            f"serve.port={self.port}",
            f"serve.instance_port={self.port + 1}",
            f"cluster.port={self._planner_port}",
            "serve.model_name=chaos",
        )
        self._guest: subprocess.Popen[bytes] | None = None
        self._guest_began = 0.0
        self.guest_instance = -1
        self._ended = threading.Event()

    # --- how it is --------------------------------------------------------------------------

    def wait_ready(self, timeout_s: float, go_on: Callable[[], None]) -> None:
        """Raises LendKVError with its own words when it does not come up."""
        deadline = time.monotonic() + timeout_s
        while len(self.ready()) < self._instances:
            go_on()
            if self._root.poll() is not None or time.monotonic() > deadline:
                said = [line for line in self.errors().splitlines() if line.startswith("lendkv: ")]
                late = f"the cluster is not ready after {timeout_s:g} s"
                raise LendKVError("\n".join(line[8:] for line in said) or late)
            time.sleep(LOOK_S)

    def ready(self) -> set[int]:
        """Instances that serve, as the cluster's gateway knows."""
        return {int(card["instance"]) for card in self._health() if card["ready"]}

    def _guests(self) -> set[int]:
        """Those that serve and came since the last guest was started; numbers are used again."""
        since = 1000 * self._guest_began  # epochs are the milliseconds of their beginning
        cards = [card for card in self._health() if card["ready"] and card["epoch"] >= since]
        return {int(card["instance"]) for card in cards} - set(range(self._instances))

    def aim(self, fault: Fault) -> Fault:
        """The fault with ``holder`` resolved: who lends most now, else the one drawn."""
        if fault.role != "holder":
            return fault
        lent = {int(card["instance"]): int(card["lent"]) for card in self._health()}
        mine = {i: lent.get(i, 0) for i in range(self._instances - 1)}
        most = max(mine, key=lambda i: mine[i])
        return replace(fault, role="pool", instance=most if mine[most] else fault.instance)

    def _health(self) -> list[dict[str, Any]]:
        cards: list[dict[str, Any]] = []
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        with suppress(OSError, HTTPException, ValueError, KeyError):
            connection.request("GET", "/health")
            cards = json.loads(connection.getresponse().read())["instances"]
        connection.close()
        return cards

    @property
    def alive(self) -> bool:
        return self._root.poll() is None

    def errors(self) -> str:
        self._stderr.flush()
        return Path(self._stderr.name).read_text(errors="replace")

    def supervisor(self, instance: int) -> int | None:
        """Of an instance that was there from the start."""
        process = processes.role_of(self._root.pid, "pool", instance)
        return process.parent if process else None

    # --- faults -----------------------------------------------------------------------------

    def strike(self, fault: Fault) -> bool:
        """Do it and, for one that lasts, wait and undo it; False when nobody was there."""
        match fault.kind:
            case "kill":
                return self._signal(fault, signal.SIGKILL)
            case "restart":
                return self._signal(fault, END_SIGNAL)
            case "freeze":
                return self._pause(fault, fault.for_s, every_s=fault.for_s)
            case "slow":
                return self._pause(fault, fault.for_s, every_s=DUTY_S)
            case "join":
                return self._join()
            case "leave":
                return self._leave()
        raise AssertionError(fault)

    def _find(self, fault: Fault) -> processes.Process | None:
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:  # it may just be starting again
            process = processes.role_of(self._root.pid, fault.role, fault.instance)
            if process is not None:
                return process
            time.sleep(LOOK_S)
        return None

    def _signal(self, fault: Fault, number: int) -> bool:
        process = self._find(fault)
        return process is not None and processes.send(self._root.pid, process, number)

    def _pause(self, fault: Fault, for_s: float, *, every_s: float) -> bool:
        """Stop and continue the process in turn, ``every_s`` each, for ``for_s`` in all."""
        process = self._find(fault)
        if process is None:
            return False
        deadline = time.monotonic() + for_s
        done = False
        while time.monotonic() < deadline and not self._ended.is_set():
            try:
                if not processes.send(self._root.pid, process, signal.SIGSTOP):
                    break
                done = True
                self._ended.wait(every_s)
            finally:
                processes.send(self._root.pid, process, signal.SIGCONT)
            self._ended.wait(min(every_s, max(0.0, deadline - time.monotonic())))
        return done

    def start_guest(self) -> None:
        """One more instance begins to join, unless the last guest has not left yet.

        It dies with the thread that calls this.
        """
        if self._guest is not None and self._guest.poll() is None:
            return
        self._guest_began = time.time()
        self._guest = self._run(
            "serve",
            *self._command,
            "instances=1",
            "pool.sizes=[]",
            "serve.instance_port=0",
            f"cluster.join=127.0.0.1:{self._planner_port}",
        )

    def _join(self) -> bool:
        """True when the guest serves."""
        assert self._guest is not None
        deadline = time.monotonic() + JOIN_S
        while time.monotonic() < deadline and not self._ended.wait(LOOK_S):
            if guests := self._guests():
                self.guest_instance = max(guests)
                return True
            if self._guest.poll() is not None:
                return False
        return False

    def _leave(self) -> bool:
        """The one that came is evacuated; True when it ended by itself."""
        guest = self._guest
        if guest is None or guest.poll() is not None:
            return False
        asking = self._run(
            "evacuate", str(self.guest_instance), f"cluster.join=127.0.0.1:{self._planner_port}"
        )
        deadline = time.monotonic() + JOIN_S
        while time.monotonic() < deadline and not self._ended.wait(LOOK_S):
            if guest.poll() is not None and asking.poll() is not None:
                return asking.returncode == 0
        asking.kill()
        asking.wait()
        return False

    # --- its end ----------------------------------------------------------------------------

    def stop(self) -> None:
        """All that was started here ends; it is asked first."""
        self._ended.set()
        roots = [one for one in (self._guest, self._root) if one is not None]
        for root in roots:
            for process in processes.descendants(root.pid):
                processes.send(root.pid, process, signal.SIGCONT)
            root.terminate()
        deadline = time.monotonic() + STOP_S
        for root in roots:
            with suppress(subprocess.TimeoutExpired):
                root.wait(max(0.1, deadline - time.monotonic()))
            if root.poll() is None:  # what is below it dies with it
                root.kill()
                root.wait()

    def _run(self, *words: str) -> "subprocess.Popen[bytes]":
        return started(
            [sys.executable, "-m", "engine", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env=self._environment,
            start_new_session=True,
        )


def free_ports(number: int) -> int:
    """The first of so many free ports in a row, on 127.0.0.1."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        if first + number < 1 << 16 and all(_is_free(first + i) for i in range(number)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
