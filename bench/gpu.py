"""Checks the Triton kernels on a CUDA GPU against float64, then times them against its limits.

    python -m bench.gpu

Decodes and prefills over batch, context, heads and dtype, blocks in random order, one layer: the
attention kernel, the merge, the write, and PyTorch's flash attention over the same keys laid one
behind the other. The bound of each is by the copy bandwidth and the rate of matrix products
measured in the same run. Writes bench/results/<device>.json and prints the table last. Not yet run
on a GPU: on a CPU, tests/bench runs all but the timing with events in Triton's interpreter.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.gpu_cases import Case, Row, cases, small_cases, table
from engine.attention import flash
from engine.attention.local import DTYPES, SEGMENT_ROWS, rows_of_nodes
from engine.attention.tree import MergeProgram, Piece, Segment
from engine.attention.triton.backend import is_interpreted, why_not
from engine.core import BlockLayout

ROUNDS, WARM_UP = 10, 3
DECODE_TILE, PREFILL_TILE = 16, 64
ERRORS = {"float32": 2e-5, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""of out, relative to the largest value, and of lse"""
Timer = Callable[[Callable[[], object]], float]


class Scene:
    """A case's keys and values in blocks, its queries, and what the kernels need."""

    def __init__(self, case: Case, device: torch.device) -> None:
        from engine.attention.triton.launch import Launch, Tiles

        self.case = case
        dtype, dim = DTYPES[case.dtype], case.dim
        layout = BlockLayout(
            layers=1, kv_heads=case.kv_heads, head_dim=dim, tokens=case.tokens, dtype=case.dtype
        )
        per_sequence = layout.blocks_for(case.keys)
        num_blocks = case.batch * per_sequence
        options = {"device": device, "dtype": dtype}
        self.blocks_PLK2CD = torch.randn(num_blocks, *layout.shape, **options)
        self.order_BN = torch.randperm(num_blocks).view(case.batch, per_sequence)
        self.q_THD = torch.randn(case.batch * case.rows, case.heads, dim, **options)
        self.k_TKD, self.v_TKD = torch.randn(2, len(self.q_THD), case.kv_heads, dim, **options)
        address = self.blocks_PLK2CD.data_ptr() + self.order_BN * layout.block_bytes
        cuts = [
            (
                b * case.rows + row,
                min(SEGMENT_ROWS, case.rows - row),
                case.keys - case.rows + row,
                b,
            )
            for b in range(case.batch)
            for row in range(0, case.rows, SEGMENT_ROWS)
        ]
        segments = []
        for row_start, num_rows, first, b in cuts:
            leaves = tuple(range((first + num_rows - 1) // case.tokens + 1))
            addresses = tuple(address[b, : len(leaves)].tolist())
            segments.append(Segment(row_start, num_rows, first, leaves, addresses))
        self.piece = Piece.of(segments)
        self.program = MergeProgram.of([c[:2] for c in cuts], rows_of_nodes(self.piece, 0))
        tiles = Tiles.suited(DECODE_TILE if case.rows == 1 else PREFILL_TILE)
        anchor = self.blocks_PLK2CD.view(-1)[:1]
        self.launch = Launch(layout, case.heads, anchor, device, tiles)
        shape, floats = (case.heads, dim), {"device": device, "dtype": torch.float32}
        self.node_rows = (
            torch.empty(self.piece.num_node_rows, *shape, **floats),
            torch.empty(self.piece.num_node_rows, case.heads, **floats),
        )
        self.finished = (
            torch.empty_like(self.q_THD, dtype=torch.float32),
            torch.empty(self.q_THD.shape[:2], **floats),
        )
        positions = torch.arange(case.keys - case.rows, case.keys)
        block_items = self.blocks_PLK2CD[0].numel()
        slots = self.order_BN[:, positions // case.tokens] * block_items
        self.slot_T = (slots + positions % case.tokens * dim).flatten().to(device)

    def attend(self) -> None:
        self.launch.attend(self.piece, self.q_THD, 0, self.case.dim**-0.5, *self.node_rows)

    def merge(self) -> None:
        self.launch.merge(self.program, *self.node_rows, *self.finished)

    def write(self) -> None:
        self.launch.write(self.k_TKD, self.v_TKD, self.slot_T, 0)

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Of all sequences, one behind the other [B, S, K, D]."""
        order = self.order_BN.to(self.blocks_PLK2CD.device)
        k, v = self.blocks_PLK2CD[order, 0].permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        return k[:, : self.case.keys], v[:, : self.case.keys]

    def flash(self) -> Callable[[], object]:
        case, device = self.case, self.q_THD.device
        k, v = (x.flatten(0, 1).contiguous() for x in self.keys_and_values())
        ends = torch.arange(case.batch + 1, dtype=torch.int32, device=device)
        ends = (ends * case.rows, ends * case.keys)
        sizes = case.rows, case.keys, case.rows > 1, case.dim**-0.5
        return lambda: flash.by_pytorch(self.q_THD, k, v, *ends, *sizes)

    def error(self) -> float:
        """Of write, attend and merge against float64; relative."""
        self.write()
        self.attend()
        self.merge()
        case = self.case
        k, v = (x.double() for x in self.keys_and_values())
        newest = slice(case.keys - case.rows, case.keys)
        written = self.k_TKD.view(case.batch, case.rows, *self.k_TKD.shape[1:])
        assert torch.equal(k[:, newest], written.double()), "keys are not where they belong"
        q = self.q_THD.double().view(case.batch, case.rows, case.kv_heads, -1, case.dim)
        s = torch.einsum("btkgd,bskd->btkgs", q, k) * case.dim**-0.5
        own = torch.arange(case.rows, device=q.device)[:, None] + case.keys - case.rows
        hidden = torch.arange(case.keys, device=q.device)[None] > own
        s = s.masked_fill(hidden[:, None, None], -torch.inf)
        out = torch.einsum("btkgs,bskd->btkgd", s.softmax(-1), v).reshape(self.q_THD.shape)
        lse = s.logsumexp(-1).reshape(self.finished[1].shape)
        out_error = (self.finished[0] - out).abs().max() / v.abs().max()
        lse_error = ((self.finished[1] - lse).abs() / (1 + lse.abs())).max()
        return max(out_error.item(), lse_error.item())


def seconds_of(run: Callable[[], object]) -> float:
    """Median by CUDA events."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times)


def check(device: torch.device, chosen: list[Case]) -> None:
    """Raises SystemExit, naming the cases that are wrong."""
    wrong = []
    for case in chosen:
        error = Scene(case, device).error()
        if not error <= ERRORS[case.dtype]:
            wrong.append(f"{case.name}, {case.dtype}: off by {error:.2g}")
    if wrong:
        raise SystemExit("\n".join(["the kernels are wrong:", *wrong]))


def measure(case: Case, device: torch.device, seconds: Timer, rates: tuple[float, float]) -> Row:
    scene = Scene(case, device)
    times = [seconds(run) for run in (scene.attend, scene.merge, scene.write)]
    return Row(case, case.bound_s(*rates), *times, seconds(scene.flash()))


def machine_rates(device: torch.device, seconds: Timer, size: int) -> tuple[float, float]:
    """Bytes and bfloat16 FLOP a second of a copy and of a square product of ``size``."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device)
    to = torch.empty_like(source)
    copy_s, product_s = seconds(lambda: to.copy_(source)), seconds(lambda: a @ b)
    return 2 * source.numel() / copy_s, 2 * size**3 / product_s


def main() -> None:
    reason = why_not() or ("unset TRITON_INTERPRET first" if is_interpreted() else "")
    if reason or not torch.cuda.is_available():
        raise SystemExit(f"bench.gpu needs a CUDA GPU: {reason}")
    device, name = torch.device("cuda"), torch.cuda.get_device_name()
    check(device, small_cases())
    rates = machine_rates(device, seconds_of, 8192)
    rows = [measure(case, device, seconds_of, rates) for case in cases()]
    path = Path(__file__).parent / "results" / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
    path.parent.mkdir(exist_ok=True)
    found = {"device": name, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    found |= {"copy_bytes_per_s": rates[0], "product_flops_per_s": rates[1]}
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{name}: copies {rates[0] / 1e9:.0f} GB/s, products {rates[1] / 1e12:.0f} TFLOP/s; {path}"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
