"""NativeAnswers: a step's asks that the native library answers by itself, one after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.attention.kernel_native import NativeKernel
from engine.attention.native_calls import AnswersCall, Heads, SliceAnswer
from engine.attention.tree import Piece
from engine.comm.watched import Watched
from engine.core import BlockLayout, ModelShape
from engine.native.library import load
from engine.protocol import Answer, Ask


class NativeAnswers:
    """Of one step of one debtor: its slices, whole, in each layer in turn."""

    def __init__(
        self,
        kernel: NativeKernel,
        step: int,
        pieces: Sequence[tuple[Piece, int]],
        *,
        layout: BlockLayout,
        shape: ModelShape,
        scale: float,
        query_dtype: np.dtype[Any],
    ) -> None:
        """``pieces`` are those of the slices, with their numbers of query rows."""
        self._pieces = [piece for piece, _ in pieces]
        self._num_slices = len(pieces)
        turns = [(layer, part) for layer in range(shape.num_layers) for part in range(len(pieces))]
        self._asks = Heads(Ask(step, layer, part) for layer, part in turns)
        self._answers = Heads(Answer(step, layer, part) for layer, part in turns)
        self._rows: list[tuple[NDArray[Any], ...]] = []
        """for each slice the memory of queries, outputs and lse"""
        self._slices = (SliceAnswer * len(pieces))()
        for told, (piece, num_queries) in zip(self._slices, pieces, strict=True):
            rows, heads = piece.num_node_rows, shape.num_heads
            q_THD = np.zeros((num_queries, heads, shape.head_dim), query_dtype)
            out_RHD = np.empty((rows, heads, shape.head_dim), np.float32)
            lse_RH = np.empty((rows, heads), np.float32)
            self._rows.append((q_THD, out_RHD, lse_RH))
            told.attend = kernel.attend_call(piece, q_THD, layout, 0, scale, out_RHD, lse_RH)
            told.num_queries, told.num_node_rows = num_queries, rows
        self._call = AnswersCall(
            asks=self._asks.address,
            answers=self._answers.address,
            slices=ctypes.addressof(self._slices),
            layer_bytes=layout.layer_bytes,
            num_slices=len(pieces),
            count=len(turns),
        )
        self._attend = load().lk_attend

    @property
    def is_done(self) -> bool:
        """Whether everything of the step was asked for."""
        return bool(self._call.next == self._call.count)

    def is_of(self, pieces: Sequence[Piece]) -> bool:
        return all(a is b for a, b in zip(self._pieces, pieces, strict=True))

    def skip(self, layer: int, part: int) -> None:
        """This one is answered elsewhere."""
        self._call.next = layer * self._num_slices + part + 1

    def is_next(self, head: bytes) -> bool:
        return not self.is_done and head == self._asks.encoded[self._call.next]

    def answer_next(self, body: memoryview) -> tuple[bytes, bytes, bytes] | None:
        """The answer's head and body to the next ask with these queries, where a channel is not
        the library's; None when the queries are too few or too many."""
        turn = self._call.next
        layer, part = divmod(turn, self._num_slices)
        q_THD, out_RHD, lse_RH = self._rows[part]
        if len(body) != q_THD.nbytes:
            return None
        q_THD.reshape(-1).view(np.uint8)[:] = body
        self._attend(ctypes.addressof(self._slices[part]), layer * self._call.layer_bytes)
        self._call.next = turn + 1
        return self._answers.encoded[turn], out_RHD.tobytes(), lse_RH.tobytes()

    def over(self, channel: int) -> int:
        """Address of an AnswersCall over this NativeChannel."""
        self._call.channel = channel
        return ctypes.addressof(self._call)


class Answering:
    """The library's functions: answer several debtors at once, as long as nothing else comes."""

    def __init__(self) -> None:
        library = load()
        pointer, long = ctypes.c_void_p, ctypes.c_int64
        self._answer = library.lk_answer
        self._answer.argtypes, self._answer.restype = [pointer], ctypes.c_int32
        self._watch = library.lk_answer_while_watching
        self._watch.argtypes = [pointer, ctypes.c_int32, pointer, long]
        self._watch.restype = long

    def answer(self, call: int) -> int:
        """What lies in a channel and comes next; how many."""
        done: int = self._answer(call)
        return done

    def watch(self, calls: Sequence[int], watched: Watched, most_ns: int) -> int:
        """As ``Transport.watch``: what is answered is no news."""
        pointers = (ctypes.c_void_p * len(calls))(*calls)
        news: int = self._watch(pointers, len(calls), ctypes.byref(watched), most_ns)
        return news
