"""Sends samples when they are due and collects what comes of them; can be stopped at any time."""

import asyncio
import time
from collections.abc import Callable, Sequence

from engine.load.arrivals import Times
from engine.load.client import Client
from engine.load.outcome import Outcome
from engine.load.sample import Sample

LOOK_S = 0.5


class Clock:
    """Seconds since ``start``."""

    def __init__(self) -> None:
        self._began = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began


async def run(
    client: Client,
    clock: Clock,
    samples: Sequence[Sample],
    due: Times,
    *,
    max_concurrency: int,
    stopped: asyncio.Event,
    on_progress: Callable[[int], None],
) -> list[Outcome]:
    """Outcomes of all samples, in their order; of those that were done when it was stopped.

    At most ``max_concurrency`` are under way (0: any number); the others wait before they count
    as sent. ``on_progress`` hears now and then how many are done.
    """
    gate = asyncio.Semaphore(max_concurrency or len(samples))

    async def one(sample: Sample, at: float) -> Outcome:
        outcome = Outcome(sample.num_prompt, at, clock())
        async with gate:
            await client.send(sample, outcome)
        return outcome

    async def send_all() -> None:
        for sample, at in zip(samples, due, strict=True):
            if (wait := float(at) - clock()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(sample, float(at))))
        await asyncio.wait(tasks)

    tasks: list[asyncio.Task[Outcome]] = []
    clock.start()
    sending, stopping = asyncio.create_task(send_all()), asyncio.create_task(stopped.wait())
    try:
        while not (sending.done() or stopping.done()):
            await asyncio.wait(
                [sending, stopping], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
            )
            on_progress(sum(task.done() for task in tasks))
        if sending.done():
            sending.result()
    finally:
        under_way = [sending, stopping, *(task for task in tasks if not task.done())]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return [task.result() for task in tasks if not task.cancelled()]
