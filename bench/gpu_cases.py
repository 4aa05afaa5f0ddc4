"""What bench.gpu runs, what bounds it and how it is told: no GPU, no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
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
    tokens: int = 64

    @property
    def name(self) -> str:
        what = "decode" if self.rows == 1 else f"prefill {self.rows}"
        return f"{what}, {self.batch} x {self.keys}, {self.heads}/{self.kv_heads}x{self.dim}"

    @property
    def kv_bytes(self) -> int:
        return 2 * self.batch * self.keys * self.kv_heads * self.dim * ITEM_BYTES[self.dtype]

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
    for dtype, (heads, kv_heads, dim) in product(("bfloat16", "float16"), SHAPES):
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
            )
            if case.kv_bytes <= MOST_BYTES:
                found.append(case)
    return found


def small_cases() -> list[Case]:
    """Compared with float64: every dtype, both shapes, ends within a block."""
    sizes = ((1, 1, 1), (3, 1, 700), (1, 70, 300), (2, 33, 33))
    return [
        Case(batch=b, rows=r, keys=k, heads=h, kv_heads=kv, dim=d, dtype=dtype)
        for dtype, (h, kv, d), (b, r, k) in product(ITEM_BYTES, SHAPES, sizes)
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one case; ``bound_s`` by the rates of the same run."""

    case: Case
    bound_s: float
    attend_s: float
    merge_s: float
    write_s: float
    flash_s: float
    """PyTorch's flash attention over the same keys, contiguous"""


def table(rows: Iterable[Row]) -> str:
    head = (
        f"{'case':44} {'dtype':9} {'attend':>9} {'merge':>8} {'write':>8} {'flash':>9} {'bound':>9}"
    )
    lines = [head + "  microseconds; of the bound"]
    for row in rows:
        micros = [row.attend_s, row.merge_s, row.write_s, row.flash_s, row.bound_s]
        cells = [f"{1e6 * s:{width}.1f}" for s, width in zip(micros, (9, 8, 8, 9, 9), strict=True)]
        share = row.bound_s / (row.attend_s + row.merge_s)
        lines.append(f"{row.case.name:44} {row.case.dtype:9} {' '.join(cells)}  {share:.0%}")
    return "\n".join(lines)
