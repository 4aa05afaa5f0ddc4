"""Whole decode steps for bench.gpu: one instance, one that has lent half of each context, a peer.

A step is what ``ModelRunner.run`` takes, logits on the host at its end, with CUDA graphs and
without; contexts grow by a token with each, as they do in service. Its bound is one reading of the
matrices and of all keys and values at the rate of a copy. The second instance's pool role is on a
thread of the same process with a stream of its own, as a step's own is, and has half of the GPU's
work then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from bench.gpu_loans import WAIT_S, borrowed
from bench.gpu_models import LLAMA_3_8B, RandomModel
from engine import build
from engine.attention.lenders import Lenders
from engine.attention.stored import DTYPES, blocks_of, narrow
from engine.build_attention import build_runner
from engine.config import Config, load
from engine.core import BlockLayout, BlockRef, Plan, Span
from engine.errors import LendKVError
from engine.hosted_pool import HostedPool
from engine.memory.base import MemoryPool
from engine.model.checkpoint import Checkpoint
from engine.protocol import VERSION, Hello

STEPS, WARM_UP = 12, 3
MOST_OFF = 0.02
"""logits of a step with CUDA graphs and of one without, relative to the largest"""
PEER_S = 150.0
"""for so long transformers may take, prefill and all"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCase:
    """``batch`` sequences, whose last step has ``keys`` keys each."""

    name: str
    settings: dict[str, Any]
    batch: int
    keys: int
    dtype: str = "bfloat16"
    tokens: int = 64
    local: str = "triton"

    def model(self, device: torch.device) -> RandomModel:
        torch.manual_seed(0)
        return RandomModel(self.settings, DTYPES[self.dtype], device)

    def bound_s(self, model: RandomModel, layout: BlockLayout, bytes_per_s: float) -> float:
        kv_bytes = self.batch * self.keys * layout.block_bytes // layout.tokens
        return (model.read_bytes + kv_bytes) / bytes_per_s


LLAMA = StepCase(name="Llama 3 8B", settings=LLAMA_3_8B, batch=32, keys=4096)


class Instance:
    """Steps of a case; ``share``: of each context's rBlocks, the first ones, lie with another."""

    def __init__(
        self, case: StepCase, model: RandomModel, share: float = 0.0, *, graphs: bool = True
    ) -> None:
        self.case, self._number = case, 0
        device = str(model.device)
        self._config = _config(case, device, graphs)
        self._shape = model.config.shape
        self.layout = build.layout_of(self._config, self._shape)
        num_leaves = self.layout.blocks_for(case.keys)
        num_lent = int(share * num_leaves)
        own = self._pool(case.batch * (num_leaves - num_lent))
        self.pools = [own]
        checkpoint = Checkpoint(
            path_or_name=case.name,
            config=model.config,
            weights=model.weights,
            eos_ids=(),
            device=device,
        )
        hello = Hello(VERSION, "bench", 0, 1, self.layout.fingerprint)
        transport = build.build_transport(self._config)
        self._lenders = Lenders(transport, own=hello, debtor=hello)
        self.runner, _ = build_runner(
            self._config, checkpoint=checkpoint, pool=own, lenders=self._lenders
        )
        self._holder: HostedPool | None = None
        lent: list[BlockRef] = []
        if num_lent:
            memory = self._pool(case.batch * num_lent)
            self.pools.append(memory)
            self._holder = HostedPool(partial(self._serve, memory), device)
            self._lenders.connect(1, self._holder.address, WAIT_S, WAIT_S)
            zeros = bytes(self.layout.block_bytes)
            lent = borrowed(self._lenders, 1, [zeros] * memory.num_blocks)
        torch.manual_seed(1)
        for pool in self.pools:
            _fill(pool)
        own_refs = [BlockRef(0, block) for block in range(own.num_blocks)]
        self.tables = [
            (
                *lent[row * num_lent : (row + 1) * num_lent],
                *own_refs[row * (num_leaves - num_lent) : (row + 1) * (num_leaves - num_lent)],
            )
            for row in range(case.batch)
        ]

    def step_s(self) -> tuple[float, torch.Tensor]:
        """Median; logits of the last."""
        times = []
        for number in range(WARM_UP + STEPS):
            began = time.perf_counter()
            logits_NV = self.step(self.case.keys - WARM_UP - STEPS + number)
            times.append(time.perf_counter() - began)
        return median(times[WARM_UP:]), logits_NV

    def step(self, position: int) -> torch.Tensor:
        """Logits behind one token of each sequence at ``position``."""
        self._number += 1
        leaves = self.layout.blocks_for(position + 1)
        spans = tuple(
            Span(row, row, 1, position, table[:leaves], 1) for row, table in enumerate(self.tables)
        )
        rows = range(self.case.batch)
        plan = Plan(self._number, tuple(1 + row for row in rows), spans, tuple(rows))
        logits_NV, poisoned = self.runner.run(plan)
        if poisoned:
            raise LendKVError(f"step {self._number}: the second instance did not answer in time")
        return logits_NV

    def close(self) -> None:
        self._lenders.close()
        if self._holder is not None:
            self._holder.leave()

    def _pool(self, num_blocks: int) -> MemoryPool:
        sizes = replace(self._config.pool, num_blocks=num_blocks)
        return build.build_pool(replace(self._config, pool=sizes), self.layout)

    def _serve(self, memory: MemoryPool, supervisor: Connection) -> int:
        """The holder's role (see ``roles.pool``), until it is told to leave."""
        transport = build.build_transport(self._config, memory)
        address = transport.listen()
        server, _ = build.build_pool_server(
            self._config,
            instance=1,
            epoch=1,
            cluster="bench",
            shape=self._shape,
            pool=memory,
            transport=transport,
        )
        supervisor.send({"pool": address})
        while not supervisor.poll():
            server.serve_once(0.01)
        server.close()
        return 0


@dataclass(frozen=True, slots=True)
class StepRow:
    """Seconds of a case's steps; ``bound_s`` by the rate of the same run."""

    case: str
    bound_s: float
    own_s: float
    plain_s: float
    """without CUDA graphs"""
    lent_s: float
    """with half of each context at a second instance on the same GPU"""
    peer_s: float | None
    peer: str
    """what the peer is, or why there is no time of it"""


def measure_steps(case: StepCase, device: torch.device, bytes_per_s: float) -> StepRow:
    """The peer runs in a process of its own, which ends in time; so it comes last. Raises
    SystemExit where steps with CUDA graphs compute something else than steps without."""
    model = case.model(device)
    times, logits = [], []
    for share, graphs in ((0.0, True), (0.0, False), (0.5, True)):
        instance = Instance(case, model, share, graphs=graphs)
        step_s, logits_NV = instance.step_s()
        times.append(step_s)
        logits.append(logits_NV)
        bound_s = case.bound_s(model, instance.layout, bytes_per_s)
        instance.close()
        del instance
    off = (logits[0] - logits[1]).abs().max() / logits[1].abs().max()
    if not off <= MOST_OFF:
        raise SystemExit(f"steps with CUDA graphs are wrong: logits are off by {off:.2g}")
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return StepRow(_name(case), bound_s, *times, *ask_peer(case, device))


def ask_peer(case: StepCase, device: torch.device) -> tuple[float | None, str]:
    """Seconds of a step of transformers, and what computed its attention; or None, and why."""
    command = [sys.executable, "-m", "bench.gpu_peer", json.dumps(asdict(case)), str(device)]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PEER_S, check=False, env=quiet
        )
    except subprocess.TimeoutExpired:
        return None, f"transformers takes longer than {PEER_S:.0f} s"
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return None, f"transformers does not run it: {said[-1]}"
    found = json.loads(done.stdout.splitlines()[-1])
    return found["step_s"], f"transformers {found['version']}, {found['attention']}"


def step_table(rows: list[StepRow]) -> str:
    lines = ["whole decode steps, milliseconds; of the bound; of a step without lending"]
    for row in rows:
        peer = "" if row.peer_s is None else f"{1e3 * row.peer_s:.2f} "
        lines.append(
            f"{row.case}: {1e3 * row.own_s:.2f} {row.bound_s / row.own_s:.0%} of the bound "
            f"{1e3 * row.bound_s:.2f}; without graphs {1e3 * row.plain_s:.2f}; half lent on this "
            f"GPU {1e3 * row.lent_s:.2f} {row.lent_s / row.own_s:.2f} x; {peer}({row.peer})"
        )
    return "\n".join(lines)


def _name(case: StepCase) -> str:
    return f"{case.name}, {case.batch} x {case.keys}, {case.dtype}"


def _config(case: StepCase, device: str, graphs: bool) -> Config:
    return load(
        None,
        [
            f"model.dtype={case.dtype}",
            f"model.device={device}",
            f"model.cuda_graphs={str(graphs).lower()}",
            "pool.name=device",
            f"pool.options.device={device}",
            f"pool.block_tokens={case.tokens}",
            "pool.lending.keep_blocks=0",
            "pool.lending.lend_fraction=1",
            f"attention.options.local={case.local}",
            f"attention.options.wait_s={WAIT_S}",
            "attention.options.way=query",
            "transport.name=shm",
        ],
    )


def _fill(pool: MemoryPool) -> None:
    """With normal keys and values."""
    assert pool.bytes_PB is not None, "a device's pool"
    items, scales = blocks_of(pool.bytes_PB.view(-1), pool.layout)
    for block in range(len(items)):  # one at a time: float32 of all would not fit
        made = torch.randn(items.shape[1:], device=items.device)
        if scales is None:
            items[block] = made
        else:
            items[block], scales[block] = narrow(made, pool.layout.dtype)
