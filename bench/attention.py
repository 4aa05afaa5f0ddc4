"""Times the attention kernels: decode in GB/s of keys and values, prefill in GFLOP/s.

    python -m bench.attention [--threads 1,2] [--kernels native,numpy] [--keys 32768]
    python -m bench.attention --json [--threads 1,2] [--rounds 9]

SmolLM2's shape (9 query heads, 3 KV heads of 64), bfloat16, one layer of blocks that hold several,
blocks in random order. Rates are the best of several runs, beside a streaming read of the same run.

``--json`` measures the native kernel against the machine: decode over 65,536 keys as a fraction of
a streaming read, prefill of 512 queries over 8,192 keys as a fraction of a bfloat16 matrix product
of 2048^3, each with the same threads and in turn with its bound, medians of the rounds. The last
line is one JSON object.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.attention import KERNELS
from engine.attention.base import Kernel
from engine.attention.kernel_native import NativeKernel
from engine.attention.tree import Piece, Segment
from engine.core import BlockLayout

HEADS = 9


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best_s(run: Callable[[], object], runs: int) -> float:
    return min(seconds_of(run) for _ in range(runs))


def aligned(shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Blocks begin at a cache line, as in a pool."""
    memory = np.empty(2 * math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 2 * math.prod(shape)].view(np.uint16).reshape(shape)


class Case:
    """Sequences of equal length over randomly ordered blocks, queries at their ends."""

    def __init__(self, *, num_keys: int, sequences: int, queries: int, tokens: int) -> None:
        self.layout = BlockLayout(
            layers=4, kv_heads=3, head_dim=64, tokens=tokens, dtype="bfloat16"
        )
        rng = np.random.default_rng(0)
        per_sequence = self.layout.blocks_for(num_keys)
        shape = (per_sequence * sequences, *self.layout.shape)
        pattern = rng.standard_normal(1 << 16, np.float32).view(np.uint32) >> 16
        self.blocks = aligned(shape)
        self.blocks[...] = np.resize(pattern.astype(np.uint16), shape)
        order = rng.permutation(len(self.blocks)).reshape(sequences, per_sequence)
        base = self.blocks.ctypes.data
        segments = []
        for s in range(sequences):
            for row in range(0, queries, 32):
                count = min(32, queries - row)
                first = num_keys - queries + row
                leaves = range((first + count - 1) // tokens + 1)
                addresses = [base + int(order[s, n]) * self.layout.block_bytes for n in leaves]
                where = (s * queries + row, count, first)
                segments.append(Segment(*where, tuple(leaves), tuple(addresses)))
        self.piece = Piece.of(segments)
        values = rng.standard_normal((sequences * queries, HEADS, 64), np.float32)
        self.q_THD = (values.view(np.uint32) >> 16).astype(np.uint16)
        self.out_RHD = np.empty((self.piece.num_node_rows, HEADS, 64), np.float32)
        self.lse_RH = np.empty((self.piece.num_node_rows, HEADS), np.float32)
        self.num_bytes = sequences * num_keys * self.layout.layer_bytes // tokens
        seen = queries * (num_keys - queries) + queries * (queries + 1) / 2
        self.flops = 4 * 64 * HEADS * sequences * seen

    def attend(self, kernel: Kernel, layer: int) -> None:
        kernel.attend(self.piece, self.q_THD, self.layout, layer, 0.125, self.out_RHD, self.lse_RH)

    def all_layers(self, kernel: Kernel) -> None:
        for layer in range(self.layout.layers):
            self.attend(kernel, layer)

    def seconds(self, kernel: Kernel, runs: int) -> float:
        layers = iter(range(1000))
        return best_s(lambda: self.attend(kernel, next(layers) % 4), runs)


def against_the_machine(threads: int, rounds: int) -> dict[str, float]:
    """Medians over rounds, in each of which a kernel and what bounds it run one after the other."""
    kernel = NativeKernel(threads)
    decode = Case(num_keys=65536, sequences=1, queries=1, tokens=64)
    prefill = Case(num_keys=8192, sequences=1, queries=512, tokens=64)
    stream = torch.ones(1 << 25, dtype=torch.int64)  # 256 MB: far more than the caches
    left, right = (torch.randn(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    torch.set_num_threads(threads)
    runs: dict[str, tuple[float, Callable[[], object]]] = {
        "stream_gb_s": (stream.nbytes, stream.sum),
        "decode_gb_s": (4 * decode.num_bytes, lambda: decode.all_layers(kernel)),
        "matrix_gflop_s": (2 * 2048**3, lambda: left @ right),
        "prefill_gflop_s": (prefill.flops, lambda: prefill.attend(kernel, 0)),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, (work, run) in runs.items():
            rate = work / seconds_of(run) / 1e9
            if number:  # the first round warms up
                rates[name].append(rate)
    return {name: round(median(values), 2) for name, values in rates.items()}


def fractions(all_threads: list[int], rounds: int) -> dict[str, Any]:
    by_threads = {threads: against_the_machine(threads, rounds) for threads in all_threads}
    return {
        "decode_fraction_of_bandwidth": {
            threads: round(rates["decode_gb_s"] / rates["stream_gb_s"], 3)
            for threads, rates in by_threads.items()
        },
        "prefill_fraction_of_matrix_rate": {
            threads: round(rates["prefill_gflop_s"] / rates["matrix_gflop_s"], 3)
            for threads, rates in by_threads.items()
        },
        "rates": by_threads,
        "fingerprint": NativeKernel().fingerprint,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--kernels", default="native,numpy")
    parser.add_argument("--keys", type=int, default=32768)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if args.json:
        print(json.dumps(fractions([int(n) for n in args.threads.split(",")], args.rounds)))
        return
    kernels = {name: KERNELS.load(name) for name in args.kernels.split(",")}

    stream = np.ones(1 << 25, np.float64)  # 256 MB: far more than the caches
    for name, make in kernels.items():
        for threads in (int(n) for n in args.threads.split(",")) if name == "native" else (1,):
            kernel = NativeKernel(threads) if name == "native" else make()
            runs, keys = (12, args.keys) if name == "native" else (2, args.keys // 8)
            rate = stream.nbytes / best_s(stream.max, 3) / 1e9
            print(f"{name}, {threads} threads; streaming read by 1 thread {rate:.1f} GB/s")
            for tokens in (16, 32, 64):
                for sequences, num_keys in ((1, keys), (8, keys // 8), (32, 192)):
                    case = Case(num_keys=num_keys, sequences=sequences, queries=1, tokens=tokens)
                    gb_s = case.num_bytes / case.seconds(kernel, runs) / 1e9
                    print(
                        f"  decode {sequences:2} x {num_keys:5} keys, blocks of {tokens}: "
                        f"{gb_s:6.2f} GB/s = {gb_s / rate:.2f} of the stream"
                    )
            queries, num_keys = (512, 6000) if name == "native" else (64, 512)
            case = Case(num_keys=num_keys, sequences=1, queries=queries, tokens=64)
            rate = case.flops / case.seconds(kernel, 3) / 1e9
            print(f"  prefill {queries} queries over {num_keys} keys: {rate:.1f} GFLOP/s")


if __name__ == "__main__":
    main()
