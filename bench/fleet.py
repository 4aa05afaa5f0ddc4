"""Fleet: real instances started for a benchmark, each on cores of its own; what it measured.

A benchmark gives a *driver*: a function of (client, instances' control addresses, key) that runs as
the frontend of rank 0 and returns facts for JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engine.children import started
from engine.client import Client
from engine.comm.control import ControlClient
from engine.config import Config, load
from engine.folder import Folder
from engine.launch import launch
from engine.measure.cores import pin
from engine.parent import die_with_parent
from engine.protocol import FROM_STEP
from engine.world import torchrun

START_S = 120.0
SETTLE_S = 1.0

Facts = dict[str, Any]
Driver = Callable[[dict[int, ControlClient], Client, Facts], Facts]
"""(a control client for each instance's step, the planner's client, arguments) -> facts"""


class Frontend:
    """Waits until all serve, lets the driver drive, tells all to leave."""

    def __init__(self, driver: Driver, arguments: Facts, result: Path, num_instances: int) -> None:
        self._settle_s: float = arguments.pop("settle_s")
        self._driver = driver
        self._arguments = arguments
        self._result = result
        self._num_instances = num_instances

    def __call__(self, pipe: Connection, planner: str, key: bytes) -> int:
        client = Client(planner, key)
        try:
            client.wait_ready(self._num_instances, START_S, lambda _: None)
            time.sleep(self._settle_s)
            addresses = {m.instance: m.step_address for m in client.members()}
            steps = {i: ControlClient(at, FROM_STEP, key) for i, at in addresses.items()}
            self._result.write_text(json.dumps(self._driver(steps, client, self._arguments)))
        finally:
            client.goodbye()
        return 0


def run(
    driver: str, settings: Sequence[str], *, settle_s: float = SETTLE_S, **arguments: Any
) -> Facts:
    """Start the instances of ``settings``, let ``"module:function"`` drive them; its facts.

    ``settle_s``: from when all are ready until the driver begins.
    """
    arguments["settle_s"] = settle_s
    config: Config = load(None, list(settings))
    with Folder() as folder:
        result = folder / "result.json"
        command = [*torchrun(config.instances, str(folder)), "bench.fleet"]
        command += [str(result), driver, json.dumps(arguments), *settings]
        environment = os.environ | {"OMP_NUM_THREADS": str(config.threads)}
        # Its own session: torchrun answers Ctrl-C with a traceback; it is ended instead.
        agent = started(command, env=environment, start_new_session=True)
        try:
            if status := agent.wait():
                raise subprocess.CalledProcessError(status, command)
        finally:
            agent.kill()
        facts: Facts = json.loads(result.read_text())
    return facts


def worker() -> int:
    """One rank: its roles share its core, and the ranks share the cores in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("driver")
    parser.add_argument("arguments", type=json.loads)
    args, settings = parser.parse_known_args()
    die_with_parent(os.getppid())
    if not args.result.parent.exists():  # all was ended while this process was being loaded
        return 1
    config: Config = load(None, settings)
    pin(int(os.environ["RANK"]), 1)
    module, _, name = args.driver.partition(":")
    driver: Driver = getattr(import_module(module), name)
    main = Frontend(driver, args.arguments, args.result, config.instances)
    return launch(config, lambda world: {} if world.rank else {"bench": main})


if __name__ == "__main__":
    sys.exit(worker())
