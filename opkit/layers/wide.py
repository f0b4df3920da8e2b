"""Sums and products with what all points share, in float32 at least.

The gradient in a bias or a gate is a sum over all points, of all samples. In bfloat16, on CPUs, such a sum stops to
grow when it is 256 times its terms: over 8192 points a fifth of it was left.
"""

import numpy as np
from jaxtyping import Array, Float


def shifted(x: Float[Array, "*n c"], by: Float[Array, "*m c"]) -> Float[Array, "*n c"]:
    """`x + by` in the dtype of `x`, which has all the axes; below float32 it is computed there, and so its gradient."""
    x, by, dtype = _wide(x, by)
    return (x + by).astype(dtype)


def scaled(x: Float[Array, "*n c"], by: Float[Array, "*m c"]) -> Float[Array, "*n c"]:
    """`x by` in the same way."""
    x, by, dtype = _wide(x, by)
    return (x * by).astype(dtype)


def _wide(x: Array, by: Array) -> tuple[Array, Array, np.dtype]:
    dtype = np.promote_types(x.dtype, np.float32)
    return x.astype(dtype), by.astype(dtype), x.dtype
