"""How far float32 results may be from the float64 oracle: one table, by the dtype of keys.

Errors of a softmax grow with the scores, so bounds are relative to ``1 + max |score|`` (lse, and
the weights of out) and to the largest value. Inputs of all dtypes are exact in float64 and products
of 16-bit inputs are exact in float32, so only the sums round; and, where bfloat16 pairs are
multiplied as they are, the weights of out.
"""

TOLERANCE = {
    "float32": 2e-6,
    "float16": 2e-6,
    "bfloat16": 2e-6,
    "int8": 2e-6,
    "fp8": 2e-6,
}

ROUNDED_WEIGHTS = {
    "float32": 0.0,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "int8": 2.0**-8,
    "fp8": 2.0**-8,
}
"""a bfloat16 weight is within 2^-9 of itself, and a value within twice the largest of the mean; a
float16 weight within 2^-12, but where it is tiny. Weights of 8-bit values are bfloat16, or float32
where queries are"""


def out_tolerance(dtype: str, fingerprint: str, largest_score: float) -> float:
    """Relative to the largest value, for a kernel or backend of this fingerprint."""
    pairs = dtype == "bfloat16" and fingerprint.endswith(("/avx512_bf16", "/amx"))
    rounds = pairs or "triton" in fingerprint
    return TOLERANCE[dtype] * (1 + largest_score) + rounds * ROUNDED_WEIGHTS[dtype]
