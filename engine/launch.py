"""The supervisor: one for each torchrun rank; forks the roles, restarts them, leaves no orphan.

It imports no torch and uses no threads, so that forking is safe and cheap. It owns the pool's
memory: a restarted step inherits the map that the dead one wrote to; a restarted pool gets new
memory, a new epoch and with it a new step.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from engine import roles
from engine.build import attention_parts, build_pool, check_parts, layout_of
from engine.children import USER_ERROR, Child, die_with_parent, fork, stop
from engine.config import Component, Config
from engine.core import ModelShape
from engine.errors import ConfigError, LendKVError
from engine.memory.base import MemoryPool
from engine.model.checkpoint import describe
from engine.world import World

MAX_RESTARTS = 5
"""restarts of one role within RESTART_WINDOW_S before the instance gives up"""
RESTART_WINDOW_S = 30.0
FAREWELL_S = 15.0

Frontend = Callable[[Connection, str], int]
"""what runs beside an instance: given its pipe and the planner's address"""


class Supervisor:
    """Runs one instance, its frontends, and on rank 0 the planner."""

    def __init__(
        self, config: Config, world: World, frontends: Mapping[str, Frontend], *, serves: bool
    ) -> None:
        """``serves``: frontends are restarted; else the first one's end is the end of all."""
        if world.size != config.instances:
            raise ConfigError(
                f"instances is {config.instances} and {world.size} processes were started; use "
                f"torchrun --nproc-per-node {config.instances}, or instances={world.size}"
            )
        self._config = config
        self._world = world
        self._mains = frontends
        self._serves = serves
        self._shape: ModelShape = describe(config.model.path, library=config.model.library).shape
        self._epoch = 0
        self._pool_memory: MemoryPool | None = None
        self._planner_address = ""
        self._pool_address = ""
        self._planner: Child | None = None
        self._pool: Child | None = None
        self._step: Child | None = None
        self._frontends: dict[str, Child] = {}
        self._restarts: dict[str, list[float]] = {}
        self._signal = 0

    def run(self) -> int:
        """Until the frontend ends, a Goodbye comes, or a signal; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        if self._world.under_torchrun:
            die_with_parent(os.getppid())
        try:
            self._start_all()
            while True:
                status = self._watch()
                if status is not None:
                    return status
        finally:
            stop(self._children())
            if self._pool_memory is not None:
                self._pool_memory.close()

    def _start_all(self) -> None:
        if self._world.rank == 0:
            self._start_planner()
        self._start_instance()
        if self._planner_address:
            self._start_frontends()

    def _start_frontends(self) -> None:
        """Those that do not run yet."""
        address = self._planner_address
        for name, main in self._mains.items():
            if name not in self._frontends:
                self._frontends[name] = fork(name, partial(_run, main, address))

    def _start_planner(self) -> None:
        config, address = self._config, self._planner_address
        self._planner = fork("planner", lambda pipe: roles.planner(pipe, config, address))
        self._planner_address = self._first_word(self._planner)["planner"]

    def _start_instance(self) -> None:
        """New memory, a new epoch, a pool and a step."""
        self._epoch = max(self._epoch + 1, time.time_ns() // 1_000_000)
        if self._pool_memory is not None:
            self._pool_memory.close()
        memory = build_pool(self._config, layout_of(self._config, self._shape))
        if memory.fd is None:
            raise ConfigError(
                f"pool.name={self._config.pool.name}: its memory belongs to one process, and an "
                "instance has two that share it; use pool.name=paged"
            )
        self._pool_memory = memory
        place = self._place()
        self._pool = fork("pool", lambda pipe: roles.pool(pipe, place, memory))
        self._pool_address = self._first_word(self._pool)["pool"]
        self._start_step()
        seal = getattr(memory, "seal_writes", None)
        if seal is not None:  # who may write has inherited the map by now
            seal()

    def _start_step(self) -> None:
        place, memory, address = self._place(), self._pool_memory, self._pool_address
        assert memory is not None
        self._step = fork("step", lambda pipe: roles.step(pipe, place, memory, address))

    def _place(self) -> roles.Place:
        return roles.Place(
            config=self._config,
            instance=self._world.rank,
            cluster=self._world.cluster,
            epoch=self._epoch,
            shape=self._shape,
            planner=self._planner_address,
            store=self._world.store,
        )

    def _children(self) -> list[Child]:
        found = (*self._frontends.values(), self._step, self._pool, self._planner)
        return [child for child in found if child is not None]

    def _first_word(self, child: Child) -> dict[str, Any]:
        """A new child's address; its own error if it fails first."""
        status = None
        while status is None:
            if self._signal or self._world.told_to_stop:
                raise SystemExit(128 + self._signal if self._signal else 0)
            status = child.poll()  # first the status, then the last words: they were said before
            for said in child.messages():
                if "error" in said:
                    raise LendKVError(said["error"])
                return said
            time.sleep(0.005)
        raise LendKVError(f"the {child.name} process ended with status {child.status} at its start")

    def _watch(self) -> int | None:
        """Wait a moment, pass messages on, restart who died; an exit status ends it."""
        children = self._children()
        wait([child.pipe for child in children if not child.pipe.closed], timeout=0.1)
        if self._signal:
            return 0 if self._signal == signal.SIGTERM else 128 + self._signal
        if self._world.told_to_stop:
            return 0
        for child in children:
            child.poll()  # first the status, then the last words: they were said before
            for said in child.messages():
                if "error" in said:
                    raise LendKVError(said["error"])
                if "planner" in said and not self._planner_address:
                    self._planner_address = said["planner"]
                    if self._pool is not None:
                        self._pool.say(planner=self._planner_address)
                    self._start_frontends()
        for name, frontend in list(self._frontends.items()):
            if frontend.status is not None:
                if not self._serves:
                    return frontend.status
                self._note(frontend)
                del self._frontends[name]
                self._start_frontends()
        if self._step is not None and self._step.status == 0:  # it was told Goodbye
            return None if self._frontends and not self._serves else 0
        if self._planner is not None and self._planner.status is not None:
            self._note(self._planner)
            self._start_planner()
        if self._pool is not None and self._pool.status is not None:
            self._note(self._pool)
            if self._step is not None:
                stop([self._step], patience_s=0.0)
            self._start_instance()
        elif self._step is not None and self._step.status is not None:
            self._note(self._step)
            self._start_step()
        return None

    def _note(self, child: Child) -> None:
        """Count and tell a restart; too many at once end the instance."""
        now = time.monotonic()
        recent = [t for t in self._restarts.get(child.name, []) if now - t < RESTART_WINDOW_S]
        self._restarts[child.name] = [*recent, now]
        if len(recent) >= MAX_RESTARTS:
            raise LendKVError(
                f"instance {self._world.rank}: its {child.name} process ended {len(recent) + 1} "
                f"times in {RESTART_WINDOW_S:g} s (last status {child.status}); giving up"
            )
        print(
            f"lendkv: instance {self._world.rank}: the {child.name} process ended "
            f"(status {child.status}); starting it again",
            file=sys.stderr,
            flush=True,
        )
        child.pipe.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal = number


def _run(main: Frontend, planner: str, pipe: Connection) -> int:
    return main(pipe, planner)


def launch(
    config: Config, frontends: Callable[[World], Mapping[str, Frontend]], *, serves: bool = False
) -> int:
    """Run this rank; the exit status. User errors print one sentence each, never a traceback."""
    world = World.from_environment()
    try:
        require_parts(config, attention=world.rank == 0 and world.under_torchrun)
        return Supervisor(config, world, frontends(world), serves=serves).run()
    except LendKVError as error:
        who = f"instance {world.rank}: " if world.rank else ""
        for line in str(error).splitlines():
            print(f"lendkv: {who}{line}", file=sys.stderr, flush=True)
        if world.rank == 0 and world.store is not None and world.size > 1:
            _farewell(config, world)
        return USER_ERROR


def require_parts(config: Config, *, attention: bool) -> None:
    """Raises ConfigError with all that is wrong with the parts' names and options.

    Attention backends import torch, which a supervisor must not: a short-lived child looks at
    them, and only where a recipe chooses something else than the default.
    """
    problems = check_parts(config)
    if (attention or problems) and config.attention != Component(name="dist"):
        child = fork("check", lambda _pipe: attention_parts(config) and None)
        while child.poll() is None:
            time.sleep(0.01)
        for said in child.messages():
            problems += said["error"].splitlines()
        child.pipe.close()
    if problems:
        raise ConfigError(*problems)


def _farewell(config: Config, world: World) -> None:
    place = roles.Place(
        config=config,
        instance=0,
        cluster=world.cluster,
        epoch=0,
        shape=describe(config.model.path, library=config.model.library).shape,
        planner="",
        store=world.store,
    )
    child = fork("farewell", lambda _pipe: roles.farewell(place))
    deadline = time.monotonic() + FAREWELL_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    stop([child], patience_s=0.0)
