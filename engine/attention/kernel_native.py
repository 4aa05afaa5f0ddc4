"""NativeKernel: partial attention in C++ (``engine/native/attention.cpp``), called by ctypes.

The interpreter lock is free while it computes. The bits of a (query row, leaf) depend on neither
the rest of the call nor the number of threads.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import Kernel
from engine.attention.shapes import check_attend, check_merge, check_piece, check_program
from engine.attention.tree import MergeProgram, Piece
from engine.core import BlockLayout
from engine.native.library import load

ISAS = ("portable", "avx2", "avx512", "avx512_bf16")
"""the instruction sets there is code for, slowest first; numbered as in isa.h"""
_KINDS = {"float32": 0, "bfloat16": 1, "float16": 2}
_QUERY_KINDS = {"f": 0, "H": 1, "e": 2}


def available_isas() -> tuple[str, ...]:
    """Those of ``ISAS`` that this processor runs."""
    runs = load().lk_isa_runs
    runs.argtypes, runs.restype = [ctypes.c_int32], ctypes.c_int32
    return tuple(name for number, name in enumerate(ISAS) if runs(number))


class _Known(NamedTuple):
    """A piece that was checked; it comes again for each layer of a step."""

    piece: Piece
    num_queries: int
    segments: int
    leaf_index: int
    address: int

    @staticmethod
    def of(piece: Piece, num_queries: int) -> "_Known":
        check_piece(piece, num_queries)
        return _Known(
            piece,
            num_queries,
            segments=_address(piece.segments_S6),
            leaf_index=_address(piece.leaf_index),
            address=_address(piece.address),
        )


class _KnownProgram(NamedTuple):
    """A merge program that was checked; it comes again like a piece."""

    program: MergeProgram
    sizes: tuple[int, int]
    """rows of its buffers: of nodes, of queries"""
    merges: int
    roots: int

    @staticmethod
    def of(program: MergeProgram, sizes: tuple[int, int]) -> "_KnownProgram":
        check_program(program, *sizes)
        merges, roots = _address(program.merges_M3), _address(program.roots_S3)
        return _KnownProgram(program, sizes, merges, roots)


class _AttendCall(ctypes.Structure):
    """The same fields as AttendCall in attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("segments", "leaf_index", "address", "q")),
        *((name, ctypes.c_void_p) for name in ("out", "lse")),
        ("layer_offset", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_segments", "q_kind", "kv_kind", "heads")),
        *((name, ctypes.c_int32) for name in ("kv_heads", "dim", "tokens", "num_threads")),
        ("isa", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class NativeKernel(Kernel):
    """Compiles on first use; raises ConfigError where there is no compiler.

    ``isa`` is one of ``available_isas()``, by default the fastest.
    """

    def __init__(self, num_threads: int = 1, isa: str | None = None) -> None:
        if not 1 <= num_threads <= 1024:
            raise ValueError(f"num_threads={num_threads}: must be 1 to 1024")
        self._num_threads = num_threads
        self._known: _Known | None = None
        self._known_program: _KnownProgram | None = None
        self._library = load()
        isas = available_isas()
        isa = isas[-1] if isa is None else isa
        if isa not in isas:
            raise ValueError(f"isa={isa!r}: this processor runs {', '.join(isas)}")
        self.isa = isa
        self._isa_number = ISAS.index(isa)
        self._library.lk_attend.argtypes = [ctypes.c_void_p]
        self._library.lk_attend.restype = None
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        self._library.lk_merge.argtypes = [
            *(number, pointer, number, pointer, number, number, number),
            *(pointer, pointer, pointer, pointer),
        ]
        self._library.lk_merge.restype = None
        # The file's name is the hash of sources, compiler, flags and processor.
        self.fingerprint = f"native/{self._library._name.rpartition('/')[2]}/{isa}"

    def attend(
        self,
        piece: Piece,
        q_THD: NDArray[Any],
        layout: BlockLayout,
        layer: int,
        scale: float,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
    ) -> None:
        check_attend(piece, q_THD, layout, layer, out_RHD, lse_RH)
        known = self._known
        if known is None or known.piece is not piece or known.num_queries != len(q_THD):
            known = self._known = _Known.of(piece, len(q_THD))
        call = _AttendCall(
            segments=known.segments,
            leaf_index=known.leaf_index,
            address=known.address,
            q=_address(q_THD),
            out=_address(out_RHD),
            lse=_address(lse_RH),
            layer_offset=layer * layout.layer_bytes,
            num_segments=len(piece.segments_S6),
            q_kind=_QUERY_KINDS[q_THD.dtype.char],
            kv_kind=_KINDS[layout.dtype],
            heads=q_THD.shape[1],
            kv_heads=layout.kv_heads,
            dim=layout.head_dim,
            tokens=layout.tokens,
            num_threads=self._num_threads,
            isa=self._isa_number,
            scale=scale,
        )
        self._library.lk_attend(ctypes.addressof(call))

    def merge(
        self,
        program: MergeProgram,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
        out_THD: NDArray[np.float32],
        lse_TH: NDArray[np.float32],
    ) -> None:
        check_merge(out_RHD, lse_RH, out_THD, lse_TH)
        known = self._known_program
        sizes = (len(out_RHD), len(out_THD))
        if known is None or known.program is not program or known.sizes != sizes:
            known = self._known_program = _KnownProgram.of(program, sizes)
        self._library.lk_merge(
            self._isa_number,
            known.merges,
            len(program.merges_M3),
            known.roots,
            len(program.roots_S3),
            out_RHD.shape[1],
            out_RHD.shape[2],
            _address(out_RHD),
            _address(lse_RH),
            _address(out_THD),
            _address(lse_TH),
        )


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # half the time of array.ctypes.data
    return address
