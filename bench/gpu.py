"""Checks the Triton kernels on a CUDA GPU against float64, then times them against its limits.

    python -m bench.gpu

Decodes and prefills over batch, context, heads and dtype, blocks in random order, one layer: the
attention kernel, the merge, the write with rotation; PyTorch's flash attention and FlexAttention
over the same keys laid one behind the other; 8-bit keys beside 16-bit ones. Then whole decode
steps of a model (gpu_steps.py), beside transformers' continuous batching, and another process's
pool read in place while that process is killed (gpu_mapped.py). The bound of each is by
the copy bandwidth and the rate of matrix products measured in the same run. Writes
bench/results/<device>.json and prints the tables last; made to take less than 8 minutes. Not yet
run on a GPU: on a CPU, tests/bench runs all but the timing with events in Triton's interpreter.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from bench.gpu_cases import Case, Row, cases, small_cases, table
from bench.gpu_mapped import MappedCase, check_mapped
from bench.gpu_steps import LLAMA, measure_steps, step_table
from engine.attention import flash
from engine.attention.local import SEGMENT_ROWS, rows_of_nodes
from engine.attention.stored import DTYPES, blocks_of, narrow, widen
from engine.attention.tree import MergeProgram, Piece, Segment
from engine.attention.triton.backend import is_interpreted, why_not
from engine.core import KV_BYTES, SCALE_BYTES

ROUNDS, WARM_UP = 10, 3
FLEX_S = 100.0
"""after so long with FlexAttention, most of it compiling, no more cases of it are begun"""
DECODE_TILE, PREFILL_TILE = 16, 64
ERRORS = {"float32": 2e-5, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""of out, relative to the largest value, and of lse; by the dtype that weights are rounded to"""
Timer = Callable[[Callable[[], object]], float]


class Scene:
    """A case's keys and values in blocks, its queries, and what the kernels need."""

    def __init__(self, case: Case, device: torch.device) -> None:
        from engine.attention.triton.launch import Launch
        from engine.attention.triton.tiles import Tiles

        self.case = case
        dtype, dim, layout = DTYPES[case.dtype], case.dim, case.layout
        per_sequence = layout.blocks_for(case.keys)
        num_blocks = case.batch * per_sequence
        options = {"device": device, "dtype": dtype}
        self.memory = torch.empty(num_blocks * layout.block_bytes, dtype=torch.uint8, device=device)
        self._fill()
        self.order_BN = torch.randperm(num_blocks).view(case.batch, per_sequence)
        self.q_THD = torch.randn(case.batch * case.rows, case.heads, dim, **options)
        self.k_TKD, self.v_TKD = torch.randn(2, len(self.q_THD), case.kv_heads, dim, **options)
        address = self.memory.data_ptr() + self.order_BN * layout.block_bytes
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
        self.launch = Launch(layout, case.heads, self.memory, device, tiles)
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
        block_BT = self.order_BN[:, positions // case.tokens] * layout.block_bytes
        item_bytes, slot_T = KV_BYTES[layout.dtype], positions % case.tokens
        items_BT = block_BT // item_bytes + slot_T * dim
        scales_BT = (block_BT + layout.scales_offset) // SCALE_BYTES + slot_T
        self.slots_2T = torch.stack([items_BT, scales_BT]).flatten(1).to(device)
        angle_TD = torch.rand(len(self.q_THD), 1, dim // 2, **floats)
        cos, sin = angle_TD.cos(), angle_TD.sin()
        self.rotary = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        self.qk_TJD = torch.cat((self.q_THD, self.k_TKD), 1)

    def attend(self) -> None:
        self.launch.attend(self.piece, self.q_THD, 0, self.case.dim**-0.5, *self.node_rows)

    def merge(self) -> None:
        self.launch.merge(self.program, *self.node_rows, *self.finished)

    def write(self) -> None:
        self.launch.write(self.k_TKD, self.v_TKD, self.slots_2T, 0)

    def write_rotated(self) -> Tensor:
        return self.launch.write_rotated(self.qk_TJD, self.v_TKD, self.rotary, self.slots_2T, 0)

    def _fill(self) -> None:
        """Normal numbers, or 8-bit items with scales that make about such of them."""
        items, scales = blocks_of(self.memory, self.case.layout)
        if scales is None:
            items.normal_()
            return
        for block in range(len(items)):  # one at a time: float32 of all would not fit
            found = narrow(torch.randn(items.shape[1:], device=items.device), self.case.kv)
            items[block], scales[block] = found

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Of all sequences, one behind the other [B, S, K, D]; those of 8 bits in float32."""
        items, scales = blocks_of(self.memory, self.case.layout)
        order = self.order_BN.to(items.device)
        if scales is not None:
            items = widen(items, scales)
        k, v = items[order, 0].permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        return k[:, : self.case.keys], v[:, : self.case.keys]

    def flash(self) -> Callable[[], object]:
        case, device = self.case, self.q_THD.device
        k, v = (x.flatten(0, 1).contiguous() for x in self.keys_and_values())
        ends = torch.arange(case.batch + 1, dtype=torch.int32, device=device)
        ends = (ends * case.rows, ends * case.keys)
        sizes = case.rows, case.keys, case.rows > 1, case.dim**-0.5
        return lambda: flash.by_pytorch(self.q_THD, k, v, *ends, *sizes)

    def flex(self, compiled: bool = True) -> Callable[[], Tensor]:
        """FlexAttention; gives [B, H, T, D]. Not compiled, it is slow and needs much memory."""
        case, device = self.case, self.q_THD.device
        k, v = (x.transpose(1, 2).contiguous() for x in self.keys_and_values())
        q = self.q_THD.view(case.batch, case.rows, case.heads, case.dim).transpose(1, 2)
        q, first = q.contiguous(), case.keys - case.rows
        mask = None
        if case.rows > 1:
            mask = create_block_mask(
                lambda b, h, t, s: s <= t + first, None, None, case.rows, case.keys, str(device)
            )
        attend: Any = flex_attention
        if compiled:
            torch.compiler.reset()  # a few shapes more, and it would not be compiled any more
            attend = torch.compile(flex_attention, dynamic=False)
        options = {"block_mask": mask, "scale": case.dim**-0.5, "enable_gqa": True}
        return lambda: attend(q, k, v, **options)

    def error(self) -> float:
        """Of write, attend and merge against float64; relative."""
        self.write()
        self.attend()
        self.merge()
        case = self.case
        k, v = (x.double() for x in self.keys_and_values())
        newest = slice(case.keys - case.rows, case.keys)
        written = self.k_TKD.view(case.batch, case.rows, *self.k_TKD.shape[1:])
        if case.kv:
            written = widen(*narrow(written, case.kv))
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


def allowed(case: Case) -> float:
    """The largest right error."""
    weights = "bfloat16" if case.kv and case.dtype != "float32" else case.dtype
    return ERRORS[weights]


def check(device: torch.device, chosen: list[Case]) -> None:
    """Raises SystemExit, naming the cases that are wrong."""
    wrong = []
    for case in chosen:
        error = Scene(case, device).error()
        if not error <= allowed(case):
            wrong.append(f"{case.name}, {case.dtypes}: off by {error:.2g}")
    if wrong:
        raise SystemExit("\n".join(["the kernels are wrong:", *wrong]))


class Clock:
    """Seconds that are left for something."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.left_s -= time.monotonic() - self._began


def measure(
    case: Case, device: torch.device, seconds: Timer, rates: tuple[float, float], for_flex: Clock
) -> Row:
    """FlexAttention is timed while ``for_flex`` has time left; compiling takes of it."""
    scene = Scene(case, device)
    times = [seconds(run) for run in (scene.attend, scene.merge, scene.write_rotated)]
    flash_s = None if case.kv else seconds(scene.flash())
    flex_s = None
    if case.asks_flex and for_flex.left_s > 0:
        with for_flex:
            flex_s = seconds(scene.flex())  # compiled by the first run, which is not counted
    return Row(case, case.bound_s(*rates), *times, flash_s, flex_s)


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
    for_flex = Clock(FLEX_S)
    rows = [measure(case, device, seconds_of, rates, for_flex) for case in cases()]
    steps = [measure_steps(LLAMA, device, rates[0])]
    mapped = check_mapped(MappedCase())
    path = Path(__file__).parent / "results" / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
    path.parent.mkdir(exist_ok=True)
    found = {"device": name, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    found |= {"steps": [asdict(row) for row in steps], "mapped": mapped}
    found |= {"copy_bytes_per_s": rates[0], "product_flops_per_s": rates[1]}
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{name}: copies {rates[0] / 1e9:.0f} GB/s, products {rates[1] / 1e12:.0f} TFLOP/s; {path}"
    )
    print(table(rows))
    print(step_table(steps))
    print(mapped)


if __name__ == "__main__":
    main()
