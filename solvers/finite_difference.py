"""Finite differences on uniform grids, of any order of accuracy, one-sided at walls."""

from functools import lru_cache
from math import factorial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .grid import Grid


def finite_difference(
    u: Float[Array, "c *n"], grid: Grid, axis: int, order: int = 1, *, accuracy: int = 4
) -> Float[Array, "c *n"]:
    """`d^order u / dx_axis^order` at the points of the grid, with an error `O(h^accuracy)`.

    Each point takes the `order + accuracy` nearest ones, and one more to make an even number odd: centred inside,
    around the end on a periodic (`left`) axis, one-sided by the walls of the others. Products with a matrix of `n^2`
    numbers, computed in float64.

    **Raises:** `ValueError` for a Chebyshev axis or one there is not, an order below 0, an accuracy below 1, or fewer
    points than the stencil has.

    Fornberg (1988), Generation of finite difference formulas on arbitrarily spaced grids,
    doi:10.1090/S0025-5718-1988-0935077-0.
    """
    if not 0 <= axis < grid.ndim or grid.placement[axis] == "chebyshev":
        raise ValueError(f"`axis` is {axis}; expected a uniform axis of placement {grid.placement}.")
    if order < 0 or accuracy < 1:
        raise ValueError(f"`order` is {order} and `accuracy` {accuracy}; expected 0 or more, and 1 or more.")
    if u.shape[1:] != grid.shape:
        raise ValueError(f"`u` has shape {u.shape}; expected (channels, *{grid.shape}). Batches come from jax.vmap.")
    if order == 0:
        return u
    n, width = grid.shape[axis], order + accuracy
    width += 1 - width % 2
    if n < width:
        raise ValueError(f"`grid` has {n} points on axis {axis}; order {order} to accuracy {accuracy} needs {width}.")
    line = Grid(n, grid.lower[axis], grid.upper[axis], grid.placement[axis])
    matrix = _matrix(n, order, width, grid.placement[axis] == "left") / line.spacing[0] ** order
    return jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, u.dtype), u, (1, axis + 1)), 0, axis + 1)


@lru_cache
def _matrix(n: int, order: int, width: int, periodic: bool) -> np.ndarray:
    """The differences for unit spacing."""
    matrix, half = np.zeros((n, n)), width // 2
    for i in range(n):
        first = i - half if periodic else min(max(i - half, 0), n - width)
        offsets = np.arange(first - i, first - i + width)
        matrix[i, (i + offsets) % n] = _weights(tuple(offsets.tolist()), order)
    return matrix


@lru_cache
def _weights(offsets: tuple[int, ...], order: int) -> np.ndarray:
    """Of the values at integer offsets: exact for polynomials of a degree below their number."""
    powers = np.vander(np.asarray(offsets, float), increasing=True).T
    return np.linalg.solve(powers, factorial(order) * (np.arange(len(offsets)) == order))
