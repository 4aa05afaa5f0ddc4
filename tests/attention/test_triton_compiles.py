"""The Triton kernels compile for an H100, and fit it; this needs triton, but no GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.attention.triton.attend import attend_kernel
from engine.attention.triton.launch import Launch
from engine.attention.triton.tiles import Tiles
from engine.attention.triton.merge import merge_kernel
from engine.attention.triton.write import write_kernel
from engine.core import BlockLayout

NAMES = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
EIGHT_BITS = {"int8": "*i8", "fp8": "*fp8e4nv"}
INDEXES = dict.fromkeys(("offsets", "slots", "scale_slots"), "*i64")
INDEXES |= dict.fromkeys(("layer_bytes", "num_tokens"), "i32")
FLOATS = {"rows_out", "rows_lse", "out", "lse", "scales", "cos", "sin"}


def compile(kernel, dtype, constants, pool="", **more):
    constants = constants | more
    options = {x: constants.pop(x) for x in ("num_warps", "num_stages") if x in constants}
    types = {"scale_2": "fp32", **INDEXES, **dict.fromkeys(FLOATS, "*fp32")}
    types |= dict.fromkeys(("q", "keys", "v", "turned", "pool"), NAMES[dtype])
    types["pool"] = EIGHT_BITS.get(pool, NAMES[dtype])
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*i32") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(signature) if signature[n][0] == "*"
    }
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(kernel.__name__, made.metadata.shared, made.asm["ptx"].count("mma"), flush=True)


def launch(dtype, pool, rows, dim, tokens, heads, kv_heads):
    layout = BlockLayout(
        layers=2,
        kv_heads=kv_heads,
        head_dim=dim,
        tokens=tokens,
        dtype=pool or dtype,
        queries=dtype,
    )
    memory = torch.empty(16, dtype=torch.uint8)
    return Launch(layout, heads, memory, torch.device("cpu"), Tiles.suited(rows))


for case in (
    ("bfloat16", "", 16, 128, 64, 32, 8),
    ("float16", "", 64, 64, 16, 9, 3),
    ("float32", "", 16, 80, 33, 4, 4),
    ("bfloat16", "", 16, 512, 256, 16, 1),
    ("bfloat16", "int8", 16, 128, 64, 32, 8),
    ("float16", "fp8", 64, 64, 16, 9, 3),
    ("bfloat16", "fp8", 16, 512, 256, 16, 1),
):
    dtype, pool = case[:2]
    compile(attend_kernel, dtype, launch(*case).attend_constants, pool)
compile(merge_kernel, "float32", launch(*case).merge_constants)
for dtype, pool, heads in (
    ("bfloat16", "", 0),
    ("bfloat16", "", 32),
    ("float16", "int8", 0),
    ("bfloat16", "fp8", 32),
):
    constants = launch(dtype, pool, 16, 128, 64, 32, 8).write_constants
    compile(write_kernel, dtype, constants, pool and "int8", HEADS=heads)
"""

SHARED_BYTES = 227 << 10
"""what one program may take on an H100"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_every_kernel_compiles_and_fits_and_uses_tensor_cores(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    ran = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    made = [line.split() for line in ran.stdout.splitlines()]
    names = ["attend_kernel"] * 7 + ["merge_kernel"] + ["write_kernel"] * 4
    assert [name for name, _, _ in made] == names
    assert max(int(shared) for _, shared, _ in made) <= SHARED_BYTES
    # Float32 is never multiplied in TF32.
    multiplied = [True, True, False, True, True, True, True]
    assert [int(num) > 0 for _, _, num in made[:7]] == multiplied
