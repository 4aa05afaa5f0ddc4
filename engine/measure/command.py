"""The verb ``profile``: two instances are started, timed, told to leave; the file is written."""

import os
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from engine.client import Client
from engine.comm.control import ControlClient
from engine.config import Component, Config
from engine.errors import ConfigError
from engine.measure.cases import BATCHES, Sizes, sizes_of
from engine.measure.cores import busy_share, pin
from engine.measure.fit import fit
from engine.measure.link import measure_link
from engine.measure.machine import profile_from, save, written
from engine.measure.streams import Streams
from engine.measure.timing import LENDER, Times, Timing
from engine.model.checkpoint import describe
from engine.progress_bar import progress_bar
from engine.protocol import FROM_STEP
from engine.sim.hardware.model import model_of
from engine.sim.hardware.profile import Measured
from engine.writable import why_not

CALM, CALM_S = 0.15, 0.5
"""share of the cores that is used while the instances idle, and how long that is looked at"""
SUFFIXES = (".yaml", ".yml")


def profiled(config: Config, output: str) -> Config:
    """The recipe as it is measured: two instances, of which one borrows. Raises ConfigError."""
    path = Path(output)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output}: a file that ends in .yaml is wanted")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {path.parent}")
    if reason := why_not(path):
        raise ConfigError(f"--output {output}: no file can be written there: {reason}")
    if config.model.library != "lendkv":
        raise ConfigError("profile times models of model.library=lendkv only")
    sizes = _sizes(config)
    options = config.attention.options | {"way": "query"}
    lending = replace(config.pool.lending, keep_blocks=0, lend_fraction=1.0, host_blocks=0)
    pool = replace(
        config.pool,
        num_blocks=sizes.big_blocks,
        sizes=[sizes.own_blocks, sizes.big_blocks],
        memory="",
        lending=lending,
    )
    scheduler = replace(
        config.scheduler,
        hand_over=False,
        prefix_caching=False,
        max_step_tokens=sizes.step_tokens,
        max_num_seqs=max(config.scheduler.max_num_seqs, BATCHES[-1]),
    )
    return replace(
        config,
        instances=2,
        attention=Component(name=config.attention.name, options=options),
        placement=Component(name="ledger"),
        pool=pool,
        scheduler=scheduler,
    )


class Profiling:
    """Runs as the frontend process of rank 0; ``config`` is as ``profiled`` gives it."""

    def __init__(self, config: Config, output: str) -> None:
        self._config = config
        self._path = Path(output)
        self._cores = sorted(os.sched_getaffinity(0))
        self._console = Console(stderr=True)
        self._model = model_of(config.model.path)
        self._sizes = _sizes(config)

    def pin(self, rank: int) -> None:
        """This rank to its cores; before it forks anything."""
        pin(rank, self._config.threads)

    def __call__(self, pipe: Connection, planner: str, key: bytes) -> int:
        began = time.monotonic()
        link = measure_link(self._config, key, self._pin_there)
        client = Client(planner, key)
        try:
            with progress_bar(self._console, counted=False) as bars:
                busy, times = self._time(client, key, bars)
        finally:  # nobody else would tell the instances to leave
            client.goodbye()
        measured = self._write(times, busy, *link)
        print(
            f"written: {self._path}, in {time.monotonic() - began:.0f} s; a step of one row takes "
            f"{measured.rows_s[0] * 1e3:.2f} ms, a key {measured.read_key_s * 1e9:.0f} ns"
        )
        return 0

    def _time(self, client: Client, key: bytes, bars: Progress) -> tuple[float, Times]:
        """The share of the cores that others take, and all cases' times."""
        config = self._config
        bar = bars.add_task("starting two instances", total=None)
        client.wait_ready(config.instances, config.cluster.start_s, lambda _: None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total)
            if not self._console.is_terminal:
                self._console.print(f"{what} ({done} of {total})", highlight=False)

        addresses = {one.instance: one.step_address for one in client.members()}
        steps = {number: ControlClient(at, FROM_STEP, key) for number, at in addresses.items()}
        busy = busy_share(CALM_S)
        streams = Streams(steps, vocabulary=self._model.vocab_size)
        timing = Timing(streams, self._sizes, config.scheduler.max_step_tokens)
        return busy, timing.run(progress)

    def _write(self, times: Times, busy: float, trip_s: float, copy_rate: float) -> Measured:
        config, model, sizes = self._config, self._model, self._sizes
        measured, way_s = fit(times, sizes, model.num_layers)
        measured = replace(measured, maps=config.transport.name == "shm", sizes=model.sizes)
        profile = profile_from(
            measured,
            model,
            way_s=way_s or trip_s / 2,
            copy_rate=copy_rate,
            threads=config.threads,
            cores=len(self._cores),
        )
        notes = [
            f"Written by lendkv profile: {config.model.path}, {config.model.dtype}, "
            f"{config.threads} threads an instance, transport {config.transport.name}.",
            f"{len(self._cores)} cores; steps of up to {sizes.step_tokens} rows, contexts of up to "
            f"{sizes.long} tokens; a bare question's round trip: {trip_s * 1e6:.1f} us.",
        ]
        if busy > CALM:
            told = f"Other work took {busy:.0%} of the cores: times are too long."
            notes.append(told)
            print(f"{told} Let the machine rest.", file=sys.stderr, flush=True)
        save(written(profile, notes), self._path)
        return measured

    def _pin_there(self) -> None:
        os.sched_setaffinity(0, self._cores)
        pin(LENDER, self._config.threads)


def _sizes(config: Config) -> Sizes:
    return sizes_of(
        max_positions=describe(config.model.path).shape.max_positions,
        block_tokens=config.pool.block_tokens,
        step_tokens=config.scheduler.max_step_tokens,
    )
