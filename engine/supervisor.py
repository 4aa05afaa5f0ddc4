"""The supervisor: one for each torchrun rank; forks the roles, restarts them, leaves no orphan.

It imports no torch and uses no threads, so that forking is safe and cheap. It owns the pool's
memory: a restarted step inherits the map that the dead one wrote to; a restarted pool gets new
memory, a new epoch and with it a new step.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from engine import meeting, planner_role, roles
from engine.build import build_shared_pool, layout_of
from engine.children import Child, fork, stop
from engine.closing import Closing
from engine.comm.auth import KEY_VARIABLE, random_key, read_key
from engine.config import Config, of_rank
from engine.core import ModelShape
from engine.errors import ConfigError, LendKVError
from engine.memory import OF_THE_STEP
from engine.memory.base import MemoryPool
from engine.model.checkpoint import describe
from engine.saying import say
from engine.sizing import advice, sized
from engine.steps import Steps
from engine.world import World

MAX_RESTARTS = 5
"""restarts of one role within RESTART_WINDOW_S before the instance gives up"""
RESTART_WINDOW_S = 30.0

Frontend = Callable[[Connection, str, bytes], int]
"""what runs beside an instance: given its pipe, the planner's address, and the cluster's key"""


class Supervisor:
    """Runs one instance, its frontends, and on rank 0 the planner."""

    def __init__(
        self,
        config: Config,
        world: World,
        frontends: Callable[[World], Mapping[str, Frontend]],
        *,
        serves: bool,
    ) -> None:
        """``serves``: frontends are restarted; else the first one's end is the end of all."""
        if config.cluster.join and not serves:
            raise ConfigError("cluster.join is for lendkv serve: leave it out here")
        if world.size != config.instances:
            raise ConfigError(
                f"instances is {config.instances} and {world.size} processes were started; use "
                f"torchrun --nproc-per-node {config.instances}, or instances={world.size}"
                + (f" (each starts its {config.tp} tp ranks by itself)" if config.tp > 1 else "")
            )
        self._config = of_rank(config, world.rank)
        self._world = world
        self._leads = world.rank == 0 and not config.cluster.join
        """whether the planner runs here"""
        self._make_frontends = frontends
        self._mains: Mapping[str, Frontend] = {}
        self._serves = serves
        self._shape: ModelShape = describe(config.model.path, library=config.model.library).shape
        self._config = sized(self._config, self._shape, world.num_here)
        if serves and self._leads:
            say(f"lendkv: {advice(self._config, self._shape)}", sys.stdout)
        self._key = read_key(config.cluster.key_file)
        self._epoch = 0
        self._pool_memory: MemoryPool | None = None
        self._planner_address = ""
        self._next_number = config.instances
        """what a planner may give to who joins; a restarted one cannot know by itself"""
        self._lends = True
        self._left = False
        """its step has handed everything over; the pool goes when nobody needs it"""
        self._pool_address = ""
        self._planner: Child | None = None
        self._pool: Child | None = None
        self._steps: Steps | None = None
        self._frontends: dict[str, Child] = {}
        self._restarts: dict[str, list[float]] = {}
        self._closing = Closing(
            drain_s=config.serve.drain_s if serves else 0.0,
            leads=self._leads,
            joined=bool(config.cluster.join),
        )

    def run(self) -> int:
        """Until the frontend ends, a Goodbye comes, or a signal; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._closing.on_signal)
        self._world.end_with_torchrun()
        try:
            self._start_all()
            while True:
                status = self._watch()
                if status is not None:
                    return status or self._closing.status
        finally:
            stop(self._children())
            if self._pool_memory is not None:
                self._pool_memory.close()

    def _start_all(self) -> None:
        if self._config.cluster.join:
            self._join()
        elif self._leads:
            self._key = self._key or random_key()
        self._mains = self._make_frontends(self._world)
        if self._leads:
            self._start_planner()
        self._start_instance()
        if self._planner_address:
            self._start_frontends()

    def _join(self) -> None:
        """Become a member of a running cluster, under the number that its planner gives."""
        if not self._key:
            raise ConfigError(
                "cluster.join needs the key of that cluster: give both the same "
                f"cluster.key_file, or the same {KEY_VARIABLE} in the environment"
            )
        place, cluster = self._place(), self._config.cluster
        child = fork("join", lambda pipe: meeting.join(pipe, place))
        said = self._first_word(child)
        child.pipe.close()
        number, name = said["instance"], said["cluster"]
        self._world = replace(self._world, instance=number, cluster=name, store=None)
        self._planner_address = f"tcp://{cluster.join}"

    def _start_frontends(self) -> None:
        """Those that do not run yet."""
        address, key = self._planner_address, self._key
        for name, main in self._mains.items():
            if name not in self._frontends:
                self._frontends[name] = fork(name, partial(_run, main, address, key))

    def _start_planner(self) -> None:
        place = self._place()
        self._planner = fork("planner", lambda pipe: planner_role.planner(pipe, place))
        self._planner_address = self._first_word(self._planner)["planner"]

    def _start_instance(self) -> None:
        """New memory, a new epoch, a pool and a step."""
        self._epoch = max(self._epoch + 1, time.time_ns() // 1_000_000)
        if self._pool_memory is not None:
            self._pool_memory.close()
        if self._config.pool.name in OF_THE_STEP:
            self._steps = Steps.start(self._place(), None)
            return
        memory = build_shared_pool(self._config, layout_of(self._config, self._shape))
        self._pool_memory = memory
        self._pool_address = ""
        if self._planner_address:  # else the step finds it, and the key
            self._start_pool()
        if not self._config.cluster.donor:
            self._start_step()
        seal = getattr(memory, "seal_writes", None)
        if seal is not None:  # this process has its map, and children inherit it
            seal()

    def _start_pool(self) -> None:
        place, memory = self._place(), self._pool_memory
        assert memory is not None
        self._pool = fork("pool", lambda pipe: roles.pool(pipe, place, memory))
        self._pool_address = self._first_word(self._pool)["pool"]

    def _start_step(self) -> None:
        place, memory = self._place(), self._pool_memory
        assert memory is not None
        self._steps = Steps.start(place, memory)
        if self._pool_address:
            self._steps.leader.say(pool=self._pool_address)

    def _place(self) -> meeting.Place:
        return meeting.Place(
            config=self._config,
            instance=self._world.instance,
            cluster=self._world.cluster,
            epoch=self._epoch,
            shape=self._shape,
            planner=self._planner_address,
            key=self._key,
            store=self._world.store,
            lends=self._lends,
            num_here=self._world.num_here,
            number_here=self._world.number_here,
            next_number=self._next_number,
        )

    def _children(self) -> list[Child]:
        steps = self._steps.children if self._steps else ()
        found = (*self._frontends.values(), *steps, self._pool, self._planner)
        return [child for child in found if child is not None]

    def _first_word(self, child: Child) -> dict[str, Any]:
        """A new child's address; its own error if it fails first."""
        status = None
        while status is None:
            if self._is_told_to_end:
                raise SystemExit(self._closing.status)
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
        if self._is_told_to_end:
            now = time.monotonic()
            self._closing.begin(now)
            step = self._steps.leader if self._steps else None
            where = (self._planner_address, self._frontends, step, self._pool)
            if self._closing.may_end(*where, now) or self._world.told_to_stop_at_once:
                return 0
        for child in children:
            child.poll()  # first the status, then the last words: they were said before
            for said in child.messages():
                if "error" in said:
                    raise LendKVError(said["error"])
                if "planner" in said and not self._planner_address:
                    self._planner_address, self._key = said["planner"], said["key"]
                    if self._pool_memory is not None:
                        self._start_pool()
                        child.say(pool=self._pool_address)
                    self._start_frontends()
                self._left |= "left" in said
                self._lends = said.get("lends", self._lends)
                self._next_number = said.get("next_number", self._next_number)
        for name, frontend in list(self._frontends.items()):
            if frontend.status is not None:
                if not self._serves:
                    return frontend.status
                del self._frontends[name]
                if frontend.status or not self._closing.begun:
                    self._note(frontend)
                    self._start_frontends()
        if self._steps is not None and self._steps.leader.status == 0:
            if not self._left:  # it was told Goodbye
                return None if self._frontends and not self._serves else 0
            self._steps.stop()
            self._steps = None
            if self._pool is not None:
                self._pool.say(leave=True)
            elif not self._leads:  # the step's process had the pool
                return 0
        if self._pool is not None and self._pool.status == 0:  # it was told to leave
            if not self._leads:
                return 0
            self._pool.pipe.close()  # planner and gateway stay
            self._pool = None
        if self._planner is not None and self._planner.status is not None:
            self._note(self._planner)
            self._start_planner()
        if self._pool is not None and self._pool.status is not None:
            self._note(self._pool)
            if self._steps is not None:
                self._steps.stop()
            self._start_instance()
        elif self._steps is not None and (failed := self._steps.failed):
            self._note(failed)
            self._steps.stop()
            self._start_step() if self._pool_memory else self._start_instance()
        return None

    def _note(self, child: Child) -> None:
        """Count and tell a restart; too many at once end the instance."""
        now = time.monotonic()
        recent = [t for t in self._restarts.get(child.name, []) if now - t < RESTART_WINDOW_S]
        self._restarts[child.name] = [*recent, now]
        if len(recent) >= MAX_RESTARTS:
            raise LendKVError(
                f"instance {self._world.instance}: its {child.name} process ended "
                f"{len(recent) + 1} times in {RESTART_WINDOW_S:g} s (last status {child.status}); "
                "giving up"
            )
        ended = f"the {child.name} process ended (status {child.status})"
        say(f"lendkv: instance {self._world.instance}: {ended}; starting it again", sys.stderr)
        child.pipe.close()

    @property
    def _is_told_to_end(self) -> bool:
        return bool(self._closing.signal) or self._world.told_to_stop


def _run(main: Frontend, planner: str, key: bytes, pipe: Connection) -> int:
    return main(pipe, planner, key)
