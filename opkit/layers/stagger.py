"""A field as the interleaved fields of `s^d` coarser grids, and back: space to depth."""

from collections.abc import Sequence
from math import prod

from jaxtyping import Array, Float


def stagger(u: Float[Array, "c *n"], factor: int | Sequence[int]) -> Float[Array, "s c *m"]:
    """Splits `(c, *n)` into `(prod(factor), c, *(n / factor))`: every `factor`-th point of an axis goes into one part.

    The parts come in the order of their first points, the last axis fastest. Each is a sample of its own: `vmap` a
    network over them, or give each its own. They share aliasing, so that a residual has to see the field that
    `unstagger` puts together.

    **Arguments:** `factor`: for all axes or one per axis. **Raises:** `ValueError` for one that does not divide.
    """
    factors = _factors(factor, u.ndim - 1)
    if any(n % s for n, s in zip(u.shape[1:], factors, strict=True)):
        raise ValueError(f"`factor` is {factors}; expected divisors of the points {u.shape[1:]}. Crop or pad.")
    pairs = [size for n, s in zip(u.shape[1:], factors, strict=True) for size in (n // s, s)]
    split = u.reshape(u.shape[0], *pairs)  # (c, m_1, s_1, m_2, s_2, ...)
    ndim = len(factors)
    order = (*range(2, 2 * ndim + 1, 2), 0, *range(1, 2 * ndim, 2))
    return split.transpose(order).reshape(-1, u.shape[0], *pairs[::2])


def unstagger(parts: Float[Array, "s c *m"], factor: int | Sequence[int]) -> Float[Array, "c *n"]:
    """The inverse of `stagger`, exactly.

    **Raises:** `ValueError` where the number of parts is not the product of the factors.
    """
    ndim = parts.ndim - 2
    factors = _factors(factor, ndim)
    count, channels, *shape = parts.shape
    if count != prod(factors):
        raise ValueError(f"`parts` are {count}; expected the product of `factor` {factors}.")
    split = parts.reshape(*factors, channels, *shape)
    order = (ndim, *(axis for j in range(ndim) for axis in (ndim + 1 + j, j)))
    return split.transpose(order).reshape(channels, *(n * s for n, s in zip(shape, factors, strict=True)))


def _factors(factor: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    factors = (factor,) * ndim if isinstance(factor, int) else tuple(factor)
    if len(factors) != ndim or min(factors) < 1:
        raise ValueError(f"`factor` is {factor}; expected a positive integer, or one for each of {ndim} axes.")
    return factors
