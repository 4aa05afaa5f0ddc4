"""A made-up instance of a large cluster that decodes steadily, and what it really says of itself.

Every request gets a token in each step, its table a block where it needs one. What is told of it
goes through the same ``Series`` and is encoded as in the processes.
"""

import random

from engine import protocol as p
from engine.core import Distribution
from engine.protocol import encode
from engine.scheduler.loads import STEP_BOUNDS_S, STEP_TOKENS, told
from engine.scheduler.reports import Series

REQUESTS = 100
"""running, of an instance on average"""
CROWDED_SHARE = 0.3
CROWDED_REQUESTS = 12
"""three in ten instances have few long sequences, and others that wait for memory"""
POOL_BLOCKS, BLOCK_TOKENS = 4000, 64
BEATS_PER_S, LOADS_PER_S = 5, 4
"""as engine/config.py and engine/roles.py have them"""
STEP_S = 0.03
HOSTED = 8
"""instances on a host"""
SKETCH_BYTES = 1025
COUNTS = ("num_asks", "num_answers", "query_bytes", "partial_bytes", "written_bytes", "read_bytes")
"""as many numbers as a pool or a step of a lending cluster counts up all the time"""


class ReportingInstance:
    """``beat`` and ``load`` give the next report as bytes, the first of each whole."""

    def __init__(self, number: int, num_instances: int, chance: random.Random) -> None:
        self._number = number
        self._chance = chance
        is_crowded = chance.random() < CROWDED_SHARE
        free = chance.randint(0, 40) if is_crowded else chance.randint(200, 1500)
        others = (REQUESTS - CROWDED_SHARE * CROWDED_REQUESTS) / (1 - CROWDED_SHARE)
        self._free = free
        self._num_running = CROWDED_REQUESTS if is_crowded else round(others)
        self._num_waiting = chance.randint(1, 40) if is_crowded else 0
        lent = {chance.randrange(num_instances): chance.randint(1, 40) for _ in range(2)}
        lent.pop(number, None)
        self._lent = {} if is_crowded else lent
        mean = (POOL_BLOCKS - free) // self._num_running
        self._tokens = [
            max(2 * BLOCK_TOKENS, round(BLOCK_TOKENS * mean * chance.uniform(0.2, 1.8)))
            for _ in range(self._num_running)
        ]
        self._outputs = [chance.randint(1, 800) for _ in range(self._num_running)]
        self._beats, self._loads = Series[p.Heartbeat](), Series[p.Load]()
        self._num_beats = self._num_loads = 0
        self._sketch = b""
        self._step_tokens, self._step_s = Distribution(STEP_TOKENS), Distribution(STEP_BOUNDS_S)

    def beat(self) -> bytes:
        """The sketch changes once a second: requests end, and what they had is cached."""
        if self._num_beats % BEATS_PER_S == 0:
            self._sketch = self._chance.randbytes(SKETCH_BYTES)
        self._num_beats += 1
        beat = p.Heartbeat(
            instance=self._number,
            epoch=1,
            address=f"tcp://10.0.{self._number // 250}.{self._number % 250}:41000",
            host=f"host{self._number // HOSTED}",
            num_blocks=POOL_BLOCKS,
            num_free=self._free,
            num_lendable=max(0, self._free - 4),
            num_lent=sum(self._lent.values()),
            num_lend_cap=int(0.9 * POOL_BLOCKS),
            lent=self._lent,
            sketch=self._sketch,
            counts=dict.fromkeys(COUNTS, 1000 * self._num_beats),
        )
        return encode(self._beats.next(beat))

    def load(self) -> bytes:
        num_steps = round(self._num_loads / (LOADS_PER_S * STEP_S))
        num_new = round((self._num_loads + 1) / (LOADS_PER_S * STEP_S)) - num_steps
        self._num_loads += 1
        for _ in range(num_new):
            self._step_tokens.add(self._num_running)
            self._step_s.add(STEP_S)
        keys = sum(self._tokens) + self._num_running * num_steps
        blocks = [-(-(tokens + num_steps) // BLOCK_TOKENS) for tokens in self._tokens]
        load = p.Load(
            self._number,
            1,
            self._num_running,
            self._num_waiting,
            30 * self._num_waiting,
            {
                number: p.RequestLoad(
                    "decode", output, tokens, there, there - 1, [p.Share(self._number, there)]
                )
                for number, (output, tokens, there) in enumerate(
                    zip(self._outputs, self._tokens, blocks, strict=True)
                )
            },
            STEP_S * self._chance.uniform(0.9, 1.1),
            samples=[
                p.StepSample(self._num_running, keys, 0, STEP_S * self._chance.uniform(0.9, 1.1))
                for _ in range(num_new)
            ],
            counts=dict.fromkeys(COUNTS, 1000 * self._num_loads),
            histograms={
                "step_tokens": told(self._step_tokens),
                "step_s": told(self._step_s),
                "trip_s": told(self._step_s),
            },
            origins={
                number: p.Origin(f"cmpl-{number:032x}#1.1", tokens, -20.0 - number)
                for number, tokens in enumerate(self._tokens)
            },
            home_blocks=sum(blocks),
            num_steps=num_steps,
            now_s=self._num_loads / LOADS_PER_S,
        )
        return encode(self._loads.next(load))
