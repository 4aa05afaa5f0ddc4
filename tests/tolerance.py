"""How far float32 results may be from the float64 oracle: one table, by the inputs' dtype.

Errors of a softmax grow with the scores, so bounds are relative to ``1 + max |score|`` (lse, and
the weights of out) and to the largest value. Inputs of all dtypes are exact in float64 and products
of 16-bit inputs are exact in float32, so only the sums round.
"""

TOLERANCE = {
    "float32": 2e-6,
    "float16": 2e-6,
    "bfloat16": 2e-6,
}
