"""Launching a rank: its parts are checked, its supervisor runs, its errors become sentences."""

import sys
import time
from collections.abc import Callable, Mapping

from engine import meeting
from engine.build import check_parts
from engine.build_attention import attention_parts
from engine.children import USER_ERROR, fork, stop
from engine.config import Component, Config
from engine.errors import ConfigError, LendKVError
from engine.model.checkpoint import describe
from engine.model.shard import require_shards
from engine.supervisor import Frontend, Supervisor
from engine.world import World

FAREWELL_S = 15.0


def launch(
    config: Config, frontends: Callable[[World], Mapping[str, Frontend]], *, serves: bool = False
) -> int:
    """Run this rank; the exit status. User errors print one sentence each, never a traceback."""
    world = World.from_environment()
    try:
        require_parts(config, attention=world.rank == 0 and world.under_torchrun)
        return Supervisor(config, world, frontends, serves=serves).run()
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
    if config.tp > 1:
        try:
            require_shards(describe(config.model.path), config.tp)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)


def _farewell(config: Config, world: World) -> None:
    place = meeting.Place(
        config=config,
        instance=0,
        cluster=world.cluster,
        epoch=0,
        shape=describe(config.model.path, library=config.model.library).shape,
        planner="",
        key=b"",
        store=world.store,
    )
    child = fork("farewell", lambda _pipe: meeting.farewell(place))
    deadline = time.monotonic() + FAREWELL_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    stop([child], patience_s=0.0)
