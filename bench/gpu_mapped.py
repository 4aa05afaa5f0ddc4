"""Two processes on a GPU, one of which reads the other's pool in place (CUDA IPC).

    python -m bench.gpu_mapped [ROUNDS]

Checks partials over own and mapped rBlocks against float64, decodes and a chunk of a prefill. Then
kills the holder (SIGKILL) at a drawn moment of ROUNDS readings, each time a new one, and says
whether the reader's CUDA context has survived: that is what ``pool.options.mapped`` is off for. The
reader is a process of its own, so nothing is lost with it. bench.gpu runs it with few rounds; on a
CPU tests/bench does, over shared memory.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bench.gpu_loans import WAIT_S, borrowed
from engine import build
from engine.attention.lenders import Lenders
from engine.attention.stored import DTYPES, blocks_of
from engine.build_attention import build_attention
from engine.config import Config, load
from engine.core import BlockRef, ModelShape, Plan, Span
from engine.protocol import VERSION, Hello

ROUNDS = 5
MOST_OFF = {"float32": 2e-5, "bfloat16": 2.0**-8}
"""of out, relative to the largest value"""
GUARD_S = 60.0
"""added to what a reader may take, for each round"""
OWN_LEAVES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MappedCase:
    """Two sequences: a decode, and a chunk of ``rows``; both begin with ``leaves`` mapped ones."""

    device: str = "cuda"
    local: str = "triton"
    dtype: str = "bfloat16"
    layers: int = 2
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    tokens: int = 64
    rows: int = 17
    leaves: int = 32

    @property
    def shape(self) -> ModelShape:
        return ModelShape(
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.dim,
            vocab_size=1,
            max_positions=self.tokens * (self.leaves + OWN_LEAVES),
        )

    @property
    def config(self) -> Config:
        return load(
            None,
            [
                f"model.dtype={self.dtype}",
                "pool.name=device",
                f"pool.options.device={self.device}",
                "pool.options.mapped=true",
                f"pool.num_blocks={2 * max(self.leaves, OWN_LEAVES)}",
                f"pool.block_tokens={self.tokens}",
                "pool.lending.keep_blocks=0",
                "pool.lending.lend_fraction=1",
                f"attention.options.local={self.local}",
                "attention.options.way=mapped",
                "transport.name=shm",
                "scheduler.max_step_tokens=1",
            ],
        )


class Reader:
    """The process that reads; its holder is another one."""

    def __init__(self, case: MappedCase) -> None:
        self.case = case
        config, shape = case.config, case.shape
        self.layout = build.layout_of(config, shape)
        self.pool = build.build_pool(config, self.layout)
        hello = Hello(VERSION, "bench", 0, 1, self.layout.fingerprint)
        self.lenders = Lenders(build.build_transport(config), own=hello, debtor=hello)
        self.backend = build_attention(
            config, shape=shape, layout=self.layout, pool=self.pool, lenders=self.lenders
        )
        self.backend.local.scale = case.dim**-0.5
        own = [self._body() for _ in range(2 * OWN_LEAVES)]
        for block, body in enumerate(own):
            self.pool.write(block, 0, body)
        self._own = [(BlockRef(0, block), body) for block, body in enumerate(own)]
        dtype = DTYPES[case.dtype]
        self._q_THD = torch.randn(1 + case.rows, case.heads, case.dim).to(dtype)
        self._number = 0
        self.holder: subprocess.Popen[str] | None = None

    def borrow(self) -> list[tuple[BlockRef, bytes]]:
        """Blocks of a new holder, and what is in them."""
        words = [sys.executable, "-m", "bench.gpu_mapped", "hold", json.dumps(asdict(self.case))]
        self.holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        self.lenders.connect(1, self.holder.stdout.readline().strip(), WAIT_S, WAIT_S)
        bodies = [self._body() for _ in range(2 * self.case.leaves)]
        return list(zip(borrowed(self.lenders, 1, bodies), bodies, strict=True))

    def begin(self, lent: list[tuple[BlockRef, bytes]]) -> None:
        """A step over the lent leaves, if any, and the own ones behind them."""
        self._number += 1
        half = len(lent) // 2
        self._tables = [
            [*lent[n * half : (n + 1) * half], *self._own[n * OWN_LEAVES : (n + 1) * OWN_LEAVES]]
            for n in range(2)
        ]
        last = len(self._tables[0]) * self.case.tokens
        self._first = [last - 1, last - self.case.rows]
        spans = [
            Span(n, n, rows, first, tuple(ref for ref, _ in table), 1)
            for n, (rows, first, table) in enumerate(
                zip((1, self.case.rows), self._first, self._tables, strict=True)
            )
        ]
        self.backend.begin(Plan(self._number, (0,) * len(self._q_THD), tuple(spans)))

    def read(self, layer: int) -> Tensor:
        """Out [T, H, D] of the step, where it is computed."""
        q_THD = self._q_THD.to(self.backend.local.device)
        return self.backend.finish(self.backend.start(q_THD, layer)).out_THD

    def error(self) -> float:
        """The largest of all layers against float64; relative."""
        worst = 0.0
        for layer in range(self.case.layers):
            out_THD, start = self.read(layer).cpu().double(), 0
            for table, first, rows in zip(
                self._tables, self._first, (1, self.case.rows), strict=True
            ):
                found = out_THD[start : start + rows]
                want, largest = self._oracle(table, first, layer, self._q_THD[start : start + rows])
                worst = max(worst, ((found - want).abs().max() / largest).item())
                start += rows
        return worst

    def kill_while_reading(self) -> None:
        """The holder ends at a drawn moment; reading goes on until it has, and a little longer."""
        holder = self.holder
        assert holder is not None

        def kill() -> None:
            time.sleep(random.uniform(0.0, 0.05))
            holder.kill()
            holder.wait()

        killer = threading.Thread(target=kill)
        killer.start()
        while killer.is_alive():
            self._read_all()
        self.lenders.pump(WAIT_S, [1])  # hears that it is gone
        self._read_all()
        if self.case.device != "cpu":
            torch.cuda.synchronize()

    def _read_all(self) -> None:
        for layer in range(self.case.layers):
            self.read(layer)

    def _oracle(
        self, table: list[tuple[BlockRef, bytes]], first: int, layer: int, q_THD: Tensor
    ) -> tuple[Tensor, float]:
        memory = torch.frombuffer(bytearray(b"".join(body for _, body in table)), dtype=torch.uint8)
        items, _ = blocks_of(memory, self.layout)
        k_KSD, v_KSD = (items[:, layer, :, part].transpose(0, 1).flatten(1, 2) for part in (0, 1))
        rows, group = len(q_THD), self.case.heads // self.case.kv_heads
        q = q_THD.double().view(rows, self.case.kv_heads, group, -1)
        s = torch.einsum("tkgd,ksd->tkgs", q, k_KSD.double()) * self.case.dim**-0.5
        hidden = torch.arange(k_KSD.shape[1])[None] > torch.arange(first, first + rows)[:, None]
        p = s.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1)
        out = torch.einsum("tkgs,ksd->tkgd", p, v_KSD.double()).reshape(q_THD.shape)
        return out, v_KSD.abs().max().item()

    def _body(self) -> bytes:
        items = torch.randn(self.layout.block_bytes // DTYPES[self.case.dtype].itemsize)
        return bytes(items.to(DTYPES[self.case.dtype]).view(torch.uint8).numpy())


def read(case: MappedCase, rounds: int) -> None:
    """A line of JSON for each round: what was found before the holder was killed, and behind."""
    torch.manual_seed(0)
    reader = Reader(case)
    for _ in range(rounds):
        lent = reader.borrow()
        reader.begin(lent)
        found: dict[str, Any] = {"error": reader.error()}
        found["mapped"] = len(reader.backend._mapped.refs) == 2 and not reader.backend._steps
        found["poisoned before"] = len(reader.backend.end())
        reader.begin(lent)
        reader.kill_while_reading()
        found["poisoned"] = len(reader.backend.end())
        reader.backend.forget_tables(1)
        reader.begin([])
        found["error alone"] = reader.error()
        reader.backend.end()
        with open("/proc/self/maps") as maps:
            found["maps"] = sum("lendkv-pool" in line for line in maps)
        print(json.dumps(found), flush=True)


def hold(case: MappedCase) -> None:
    """A pool that serves as long as its reader is there."""
    config, reader = case.config, os.getppid()
    layout = build.layout_of(config, case.shape)
    pool = build.build_pool(config, layout)
    transport = build.build_transport(config, pool)
    address = transport.listen()
    server, _ = build.build_pool_server(
        config,
        instance=1,
        epoch=1,
        cluster="bench",
        shape=case.shape,
        pool=pool,
        transport=transport,
    )
    print(address, flush=True)
    while os.getppid() == reader:
        server.serve_once(0.05)


def check_mapped(case: MappedCase, rounds: int = ROUNDS) -> str:
    """What was found, in a sentence. Raises SystemExit where partials are wrong, or not noticed
    to be of a dead holder."""
    words = [sys.executable, "-m", "bench.gpu_mapped", "read", json.dumps(asdict(case))]
    reader = subprocess.Popen(
        [*words, str(rounds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    guard = threading.Timer((1 + rounds) * GUARD_S, reader.kill)  # what it said still counts
    guard.start()
    out, err = reader.communicate()
    guard.cancel()
    lines = [json.loads(line) for line in out.splitlines()]
    for number, found in enumerate(lines, 1):
        off = max(found["error"], found["error alone"])
        if not off <= MOST_OFF[case.dtype]:
            raise SystemExit(f"mapped partials are wrong: off by {off:.2g} in round {number}")
        if not found["mapped"] or found["poisoned before"] or found["poisoned"] != 2:
            raise SystemExit(f"a killed holder's blocks are not what they should be: {found}")
    if reader.returncode:
        said = (err.strip().splitlines() or [f"status {reader.returncode}"])[-1]
        what = f"the reader did not survive round {len(lines) + 1} of {rounds}: {said}"
    else:
        what = f"the reader survived all {rounds} deaths of its holder"
    worst = max((found["error"] for found in lines), default=float("nan"))
    return f"mapped blocks of another process: off by {worst:.2g} at most; {what}"


def main() -> None:
    match sys.argv[1:]:
        case ["hold", case]:
            hold(MappedCase(**json.loads(case)))
        case ["read", case, rounds]:
            read(MappedCase(**json.loads(case)), int(rounds))
        case _:
            if not torch.cuda.is_available():
                raise SystemExit("bench.gpu_mapped needs a CUDA GPU")
            print(check_mapped(MappedCase(), *map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
