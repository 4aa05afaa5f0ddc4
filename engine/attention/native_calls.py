"""What the native library is called with, field by field as in its headers; no torch."""

import ctypes
from collections.abc import Iterable

import numpy as np

from engine.protocol import Message, encode


class StoreCall(ctypes.Structure):
    """The same fields as StoreCall in store.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("key_at", "scale_at")),
        *((name, ctypes.c_int64) for name in ("value_offset", "value_scale", "head_offset")),
        *((name, ctypes.c_int32) for name in ("rows", "kv_heads", "dim", "row_kind", "kind")),
    )


class AttendCall(ctypes.Structure):
    """The same fields as AttendCall in attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("segments", "leaf_index", "address", "q")),
        *((name, ctypes.c_void_p) for name in ("out", "lse")),
        *((name, ctypes.c_int32) for name in ("num_segments", "q_kind", "kv_kind", "heads")),
        *((name, ctypes.c_int32) for name in ("kv_heads", "dim", "tokens", "num_threads")),
        ("isa", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("head_bytes", ctypes.c_int64),
    )


class MergeCall(ctypes.Structure):
    """The same fields as MergeCall in attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("merges", "roots", "rows_out", "rows_lse")),
        *((name, ctypes.c_void_p) for name in ("out", "lse")),
        *((name, ctypes.c_int32) for name in ("num_merges", "num_roots", "heads", "dim", "isa")),
    )


class SliceAsk(ctypes.Structure):
    """The same fields as SliceAsk in asks.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("channel", "asks", "answers", "rows")),
        *((name, ctypes.c_int32) for name in ("num_rows", "base", "num_node_rows", "state")),
        *((name, ctypes.c_int64) for name in ("asked_ns", "trip_ns")),
    )


class SliceAnswer(ctypes.Structure):
    """The same fields as SliceAnswer in answers.cpp."""

    _fields_ = (
        ("attend", AttendCall),
        *((name, ctypes.c_int32) for name in ("num_queries", "num_node_rows")),
    )


class AnswersCall(ctypes.Structure):
    """The same fields as AnswersCall in answers.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("channel", "asks", "answers", "slices")),
        ("layer_bytes", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_slices", "next", "count")),
    )


class NativeStep(ctypes.Structure):
    """One step's attention, all layers. The same fields as AttentionStep in attention_step.h.

    Whoever makes it keeps alive what it points to, until the step has ended.
    """

    _fields_ = (
        ("store", StoreCall),
        ("attend", AttendCall),
        ("merge", MergeCall),
        ("slices", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("layer_bytes", "patience_ns", "sleep_ns")),
        *((name, ctypes.c_int64) for name in ("attend_ns", "trip_ns")),
        *((name, ctypes.c_int32) for name in ("num_slices", "waits", "num_late")),
    )


class Heads:
    """Encoded messages, as a table of (address, length) at ``address``."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self.encoded = [encode(message) for message in messages]
        self._text = np.frombuffer(b"".join(self.encoded), np.uint8)
        self._table_N2 = np.empty((len(self.encoded), 2), np.int64)
        self._table_N2[:, 1] = [len(text) for text in self.encoded]
        ends = np.cumsum(self._table_N2[:, 1])
        self._table_N2[:, 0] = self._text.ctypes.data + ends - self._table_N2[:, 1]
        self.address: int = self._table_N2.ctypes.data
