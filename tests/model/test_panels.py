"""Protects products with bfloat16 panels on every instruction set that they are written for."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processors import needs_decoder

from engine.model.panels import pack
from engine.native import library

HERE = Path(library.__file__).parent
SOURCE = """
#include "decoder.h"
extern "C" void products(const lk::Bf16* w, int from, int to, const lk::Bf16* x, int rows,
                         int depth, int stride_x, float* y, int stride_y) {
    lk::dots(w, from, to, x, rows, depth, stride_x, y, stride_y, nullptr);
}
extern "C" void narrowed(const float* x, int count, lk::Bf16* to) { lk::narrow(x, count, to); }
"""
SETS = {
    "amx": ({"avx512_bf16", "amx_bf16"}, []),
    "avx512_bf16": ({"avx512_bf16"}, ["-mno-amx-tile"]),
    "avx512": ({"avx512f", "avx512bw", "avx512dq", "avx512vl"}, ["-mno-avx512bf16"]),
    "avx2": ({"avx2", "fma"}, ["-mno-avx512f"]),
}
"""what the processor must have, and how the compiler is kept from more"""
HAVE = library.processor_flags()
ISAS = [isa for isa, (wanted, _) in SETS.items() if wanted <= HAVE]
EPSILON = 2.0**-24

pytestmark = needs_decoder


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panels")
    (folder / "products.cpp").write_text(SOURCE)
    compiler = next(path for name in library.COMPILERS if (path := shutil.which(name)))
    running = {}
    for isa in ISAS:
        flags = [*library.FLAGS, "-O1", *SETS[isa][1], f"-I{HERE}"]
        command = [compiler, *flags, "-shared", "products.cpp"]
        running[isa] = subprocess.Popen([*command, "-o", f"{isa}.so"], cwd=folder)
    assert not any(process.wait() for process in running.values())
    return {isa: ctypes.CDLL(str(folder / f"{isa}.so")) for isa in ISAS}


def address(array):
    return ctypes.c_void_p(array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr())


def products(lib, weight, x, start=0, end=None):
    """Outputs [start, end) of all rows; what lies beside them stays as it was."""
    end = len(weight) if end is None else end
    y = np.full((len(x), len(weight) + 3), np.nan, np.float32)
    packed, x = pack(weight), x.contiguous()
    lib.products(
        *(address(packed), start, end, address(x), len(x), x.shape[1], x.shape[1]),
        *(address(y), y.shape[1]),
    )
    outside = np.ones(y.shape[1], bool)
    outside[start:end] = False
    assert np.isnan(y[:, outside]).all()
    return y[:, start:end]


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


SIZES = {
    "rows": st.integers(1, 30) | st.integers(90, 200),
    "outputs": st.integers(1, 100),
    "depth": st.integers(1, 70),
    "seed": st.integers(0, 99),
}


@given(**SIZES, data=st.data())
def test_products_are_those_of_float64_and_only_what_is_wanted_is_written(
    libraries, rows, outputs, depth, seed, data
):
    weight, x = drawn(seed, outputs, depth), drawn(seed + 100, rows, depth)
    end = data.draw(st.integers(1, outputs))
    start = data.draw(st.integers(0, end - 1))
    truth = (x.double() @ weight.double().T)[:, start:end].numpy()
    bound = (x.double().abs() @ weight.double().abs().T)[:, start:end].numpy()
    for lib in libraries.values():
        found = products(lib, weight, x, start, end)
        assert (np.abs(found - truth) <= (depth + 2) * EPSILON * bound + 1e-30).all()


@given(**SIZES)
def test_the_bits_of_a_row_are_its_own(libraries, rows, outputs, depth, seed):
    weight, x = drawn(seed, outputs, depth), drawn(seed + 100, rows, depth)
    at = seed % rows
    for lib in libraries.values():
        whole = products(lib, weight, x)
        assert np.array_equal(products(lib, weight, x[at : at + 1])[0], whole[at])


@pytest.mark.skipif(not {"avx512", "avx2"} <= set(ISAS), reason="needs AVX-512")
@given(**SIZES)
def test_sixteen_lanes_and_eight_give_the_same_bits(libraries, rows, outputs, depth, seed):
    weight, x = drawn(seed, outputs, depth), drawn(seed + 100, rows, depth)
    wide, narrow = (products(libraries[isa], weight, x) for isa in ("avx512", "avx2"))
    assert np.array_equal(wide, narrow)


@given(
    values=st.lists(
        st.floats(width=32, allow_subnormal=False)
        | st.integers(0x0080_0000, 0x7F80_0000).map(
            lambda bits: float(np.uint32(bits & 0xFFFF_8000).view(np.float32))
        ),
        min_size=1,
        max_size=40,
    )
)
def test_narrowing_is_to_the_nearest_and_to_even_ones(libraries, values):
    wide = np.array(values, np.float32)
    truth = torch.from_numpy(wide).bfloat16().float()
    for lib in libraries.values():
        found = torch.empty(len(wide), dtype=torch.bfloat16)
        lib.narrowed(address(wide), len(wide), address(found))
        assert torch.equal(found.float().nan_to_num(7.5), truth.nan_to_num(7.5))
