"""What bench.gpu runs, what bounds it and how it is told: no GPU, no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from engine.core import SCALED_BYTES, BlockLayout

DTYPES = ("float32", "float16", "bfloat16")
SHAPES = ((32, 8, 128), (9, 3, 64))
"""query heads, KV heads, head dimension: Llama 3 8B, SmolLM2 135M"""
MOST_BYTES = 16 << 30
"""of keys and values in one case, one layer"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """``batch`` sequences with ``keys`` keys each, the last ``rows`` of which ask."""

    batch: int
    rows: int
    keys: int
    heads: int
    kv_heads: int
    dim: int
    dtype: str
    kv: str = ""
    """8-bit dtype of keys and values; empty: that of the queries"""
    tokens: int = 64

    @property
    def name(self) -> str:
        what = "decode" if self.rows == 1 else f"prefill {self.rows}"
        return f"{what}, {self.batch} x {self.keys}, {self.heads}/{self.kv_heads}x{self.dim}"

    @property
    def dtypes(self) -> str:
        return "/".join(filter(None, (self.dtype, self.kv)))

    @property
    def asks_flex(self) -> bool:
        """FlexAttention is compiled anew for each case, which takes seconds."""
        return self.dtype == "bfloat16" and not self.kv and self.dim == SHAPES[0][2]

    @property
    def layout(self) -> BlockLayout:
        return BlockLayout(
            layers=1,
            kv_heads=self.kv_heads,
            head_dim=self.dim,
            tokens=self.tokens,
            dtype=self.kv or self.dtype,
            queries=self.dtype,
        )

    @property
    def kv_bytes(self) -> int:
        """Of the keys and values that are read, with their scales."""
        return self.batch * self.keys * self.layout.block_bytes // self.tokens

    @property
    def flops(self) -> int:
        """Of both products, over the keys that each row sees."""
        seen = self.rows * (self.keys - self.rows) + self.rows * (self.rows + 1) // 2
        return 4 * self.batch * seen * self.heads * self.dim

    def bound_s(self, bytes_per_s: float, flops_per_s: float) -> float:
        """Keys and values are read once, or products computed, whichever takes longer."""
        return max(self.kv_bytes / bytes_per_s, self.flops / flops_per_s)


def cases() -> list[Case]:
    found = []
    forms = (("bfloat16", ""), ("bfloat16", "fp8"), ("bfloat16", "int8"), ("float16", ""))
    for (dtype, kv), (heads, kv_heads, dim) in product(forms, SHAPES):
        sizes = [
            *((batch, 1, keys) for batch, keys in product((1, 8, 64), (1024, 8192, 32768))),
            *((1, rows, keys) for rows, keys in product((512, 2048), (2048, 16384))),
        ]
        for batch, rows, keys in sizes:
            case = Case(
                batch=batch,
                rows=rows,
                keys=keys,
                heads=heads,
                kv_heads=kv_heads,
                dim=dim,
                dtype=dtype,
                kv=kv,
            )
            if case.kv_bytes <= MOST_BYTES:
                found.append(case)
    return found


def small_cases() -> list[Case]:
    """Compared with float64: every dtype of queries and keys, both shapes, ends within a block."""
    sizes = ((1, 1, 1), (3, 1, 700), (1, 70, 300), (2, 33, 33))
    return [
        Case(batch=b, rows=r, keys=k, heads=h, kv_heads=kv, dim=d, dtype=dtype, kv=of_keys)
        for dtype, of_keys, (h, kv, d), (b, r, k) in product(
            DTYPES, ("", *SCALED_BYTES), SHAPES, sizes
        )
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one case; ``bound_s`` by the rates of the same run."""

    case: Case
    bound_s: float
    attend_s: float
    merge_s: float
    write_s: float
    flash_s: float | None = None
    """PyTorch's flash attention over the same keys, contiguous; none has 8-bit ones with scales"""
    flex_s: float | None = None
    """FlexAttention, compiled, over the same"""

    @property
    def own_s(self) -> float:
        return self.attend_s + self.merge_s


def table(rows: Iterable[Row]) -> str:
    """In microseconds; then shares of the bound and, with 8-bit keys, times as fast as 16-bit."""
    head = ("attend", "merge", "write", "flash", "flex", "bound")
    cells = " ".join(f"{name:>9}" for name in head)
    lines = [
        f"{'case':44} {'dtypes':13} {cells}  microseconds; of the bound; of 16-bit keys' speed"
    ]
    rows = list(rows)
    plain = {row.case: row.own_s for row in rows}
    for row in rows:
        times = (row.attend_s, row.merge_s, row.write_s, row.flash_s, row.flex_s, row.bound_s)
        cells = " ".join(f"{'-' if s is None else f'{1e6 * s:.1f}':>9}" for s in times)
        wide_s = plain.get(replace(row.case, kv="")) if row.case.kv else None
        times_as_fast = f"  {wide_s / row.own_s:.2f}" if wide_s else ""
        share = row.bound_s / row.own_s
        lines.append(f"{row.case.name:44} {row.case.dtypes:13} {cells}  {share:.0%}{times_as_fast}")
    return "\n".join(lines)
