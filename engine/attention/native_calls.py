"""What the native library is called with, field by field as in its headers; no torch."""

import ctypes


class StoreCall(ctypes.Structure):
    """The same fields as StoreCall in store.h."""

    _fields_ = (
        ("key_at", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row_bytes", "value_offset", "head_offset")),
        *((name, ctypes.c_int32) for name in ("rows", "kv_heads")),
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
    )


class MergeCall(ctypes.Structure):
    """The same fields as MergeCall in attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("merges", "roots", "rows_out", "rows_lse")),
        *((name, ctypes.c_void_p) for name in ("out", "lse")),
        *((name, ctypes.c_int32) for name in ("num_merges", "num_roots", "heads", "dim", "isa")),
    )


class NativeStep(ctypes.Structure):
    """One step's attention, all layers. The same fields as AttentionStep in attention_step.h.

    Whoever makes it keeps alive what it points to, until the step has ended.
    """

    _fields_ = (
        ("store", StoreCall),
        ("attend", AttendCall),
        ("merge", MergeCall),
        ("layer_bytes", ctypes.c_int64),
        ("attend_ns", ctypes.c_int64),
    )
