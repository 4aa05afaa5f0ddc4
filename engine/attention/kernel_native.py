"""NativeKernel: partial attention in C++ (``engine/native/attention.cpp``), called by ctypes.

The interpreter lock is free while it computes. The bits of a (query row, leaf) depend on neither
the rest of the call nor the number of threads.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import Kernel
from engine.attention.native_calls import AttendCall, MergeCall
from engine.attention.shapes import check_attend, check_merge, check_piece, check_program
from engine.attention.tree import MergeProgram, Piece
from engine.core import BlockLayout
from engine.native.library import load

ISAS = ("portable", "avx2", "avx512", "avx512_bf16", "amx")
"""the instruction sets there is code for, slowest first; numbered as in isa.h"""
KINDS = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "fp8": 4}
"""numbered as in routines.h"""
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
        self._library.lk_attend.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self._library.lk_attend.restype = None
        self._library.lk_merge.argtypes = [ctypes.c_void_p]
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
        call = self.attend_call(piece, q_THD, layout, layer, scale, out_RHD, lse_RH)
        self._library.lk_attend(ctypes.addressof(call), layer * layout.layer_bytes)

    def attend_call(
        self,
        piece: Piece,
        q_THD: NDArray[Any],
        layout: BlockLayout,
        layer: int,
        scale: float,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
    ) -> AttendCall:
        """``attend`` as the library takes it, checked. It keeps none of the arrays alive."""
        check_attend(piece, q_THD, layout, layer, out_RHD, lse_RH)
        known = self._known
        if known is None or known.piece is not piece or known.num_queries != len(q_THD):
            known = self._known = _Known.of(piece, len(q_THD))
        return AttendCall(
            segments=known.segments,
            leaf_index=known.leaf_index,
            address=known.address,
            q=_address(q_THD),
            out=_address(out_RHD),
            lse=_address(lse_RH),
            num_segments=len(piece.segments_S6),
            q_kind=_QUERY_KINDS[q_THD.dtype.char],
            kv_kind=KINDS[layout.dtype],
            heads=q_THD.shape[1],
            kv_heads=layout.kv_heads,
            dim=layout.head_dim,
            tokens=layout.tokens,
            num_threads=self._num_threads,
            isa=self._isa_number,
            scale=scale,
            head_bytes=layout.head_bytes,
        )

    def merge(
        self,
        program: MergeProgram,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
        out_THD: NDArray[np.float32],
        lse_TH: NDArray[np.float32],
    ) -> None:
        call = self.merge_call(program, out_RHD, lse_RH, out_THD, lse_TH)
        self._library.lk_merge(ctypes.addressof(call))

    def merge_call(
        self,
        program: MergeProgram,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
        out_THD: NDArray[np.float32],
        lse_TH: NDArray[np.float32],
    ) -> MergeCall:
        """``merge`` as the library takes it, checked. It keeps none of the arrays alive."""
        check_merge(out_RHD, lse_RH, out_THD, lse_TH)
        known = self._known_program
        sizes = (len(out_RHD), len(out_THD))
        if known is None or known.program is not program or known.sizes != sizes:
            known = self._known_program = _KnownProgram.of(program, sizes)
        return MergeCall(
            merges=known.merges,
            roots=known.roots,
            rows_out=_address(out_RHD),
            rows_lse=_address(lse_RH),
            out=_address(out_THD),
            lse=_address(lse_TH),
            num_merges=len(program.merges_M3),
            num_roots=len(program.roots_S3),
            heads=out_RHD.shape[1],
            dim=out_RHD.shape[2],
            isa=self._isa_number,
        )


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # half the time of array.ctypes.data
    return address
