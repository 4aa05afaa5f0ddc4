"""The verb ``bench serve``: loads an OpenAI-compatible server and prints what its clients saw."""

import argparse
import asyncio
import gc
import math
import signal
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from rich.console import Console

from engine.ctrl_c import INTERRUPTED
from engine.errors import CheckpointError, ConfigError
from engine.load import arrivals, report
from engine.load.check import check
from engine.load.client import Client
from engine.load.dataset import load_samples
from engine.load.measures import figures
from engine.load.options import Options, to_options
from engine.load.outcome import Outcome
from engine.load.run import Clock, run
from engine.load.sample import Sample
from engine.load.server import find_model
from engine.model.checkpoint import EMBEDDED, load_tokenizer
from engine.model.tokenizer import Tokenizer
from engine.progress_bar import progress_bar


def bench(args: argparse.Namespace) -> int:
    """Exit status 1 when no request was answered, 130 after Ctrl-C. Raises LendKVError."""
    options = to_options(vars(args))
    check(options)
    return asyncio.run(_bench(options))


async def _bench(options: Options) -> int:
    model, max_positions = await find_model(options)
    tokenizer = _tokenizer(options, model)
    samples = _that_fit(load_samples(options, tokenizer), max_positions)
    due = _due(options, samples)
    clock, stopped = Clock(), asyncio.Event()
    began = datetime.now()

    def interrupt() -> None:
        stopped.set()
        loop.remove_signal_handler(signal.SIGINT)  # who asks again does not wait

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    async with Client(options, model, tokenizer, clock) as client:
        warm = [samples[0]] * options.num_warmups
        if warm:
            await _run(client, clock, warm, np.zeros(len(warm)), options, stopped, "warming up")
        gc.collect()
        gc.freeze()  # what is there by now need not be looked at in the middle of the run
        outcomes = await _run(client, clock, samples, due, options, stopped, "requests")
    if stopped.is_set():
        print(f"Interrupted: {len(outcomes)} of {len(samples)} requests were done by then.")
    _tell(outcomes, options, model, began)
    if stopped.is_set():
        return INTERRUPTED
    return 0 if any(outcome.completed for outcome in outcomes) else 1


async def _run(
    client: Client,
    clock: Clock,
    samples: Sequence[Sample],
    due: arrivals.Times,
    options: Options,
    stopped: asyncio.Event,
    what: str,
) -> list[Outcome]:
    bar = progress_bar(
        Console(stderr=True),
        hidden=options.disable_tqdm,
        auto_refresh=False,  # no thread of its own: it would take time from the clients
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=len(samples))
        return await run(
            client,
            clock,
            samples,
            due,
            max_concurrency=options.max_concurrency,
            stopped=stopped,
            on_progress=lambda done: bar.update(task, completed=done, refresh=True),
        )


def _tokenizer(options: Options, model: str) -> Tokenizer:
    name = options.tokenizer or model
    try:
        found = load_tokenizer(name)
    except CheckpointError as error:
        raise ConfigError(
            f"no tokenizer at {name!r}; say --tokenizer FOLDER, FILE.gguf or {EMBEDDED}"
        ) from error
    if found is None:
        raise ConfigError(f"{name!r} has no tokenizer.json; say --tokenizer")
    return found


def _that_fit(samples: Sequence[Sample], max_positions: int) -> list[Sample]:
    """Those that the server's model has positions for; the others are left out, and said so."""
    fit = [one for one in samples if one.num_prompt + one.num_output <= max_positions]
    if not max_positions or len(fit) == len(samples):
        return list(samples)
    lost = len(samples) - len(fit)
    if not fit:
        raise ConfigError(
            f"all {lost} requests are longer than the server's {max_positions} tokens, prompt and "
            "answer together; choose shorter lengths"
        )
    print(f"{lost} requests are left out: longer than the server's {max_positions} tokens.")
    return fit


def _due(options: Options, samples: Sequence[Sample]) -> arrivals.Times:
    rng = np.random.default_rng([options.seed, 1])
    number, burstiness = len(samples), options.burstiness
    if options.ramp_up_strategy:
        first, last = options.ramp_up_start_rps, options.ramp_up_end_rps
        return arrivals.ramp(number, first, last, options.ramp_up_strategy, burstiness, rng)
    times = [one.arrival_s for one in samples if one.arrival_s is not None]
    if len(times) == number and math.isinf(options.request_rate):
        return np.array(times) - times[0]
    if options.self_timed:
        raise ConfigError(f"--self-timed: {options.dataset_path!r} has rows without a time")
    return arrivals.steady(number, options.request_rate, burstiness, rng)


def _tell(outcomes: list[Outcome], options: Options, model: str, began: datetime) -> None:
    found = figures(outcomes, percentiles=options.percentiles, objectives=options.objectives)
    print(report.console(found, outcomes, options), flush=True)
    path = report.file_name(options, model=model, began=began)
    written = []
    if options.save_result or options.save_detailed:
        report.save(path, report.result(found, outcomes, options, model=model, began=began))
        written.append(path)
    if outcomes and (options.plot or options.plot_timeline):
        from engine.load import plot

        pictures = {".png": plot.draw_distributions} if options.plot else {}
        if options.plot_timeline:
            pictures[".timeline.png"] = plot.draw_timeline
        for suffix, draw in pictures.items():
            picture = path.with_suffix(suffix)
            with report.writing(picture):
                draw(outcomes, picture)
            written.append(picture)
    for one in written:
        print(f"written: {one}")
