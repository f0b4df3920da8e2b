"""Finite differences on uniform grids, of any order of accuracy, one-sided at walls."""

from functools import lru_cache
from math import factorial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .decomposed import Piece, halo_exchange, own_block
from .grid import Grid


def finite_difference(
    u: Float[Array, "c *n"], grid: Grid | Piece, axis: int, order: int = 1, *, accuracy: int = 4
) -> Float[Array, "c *n"]:
    """`d^order u / dx_axis^order` at the points of the grid, with an error `O(h^accuracy)`.

    Each point takes the `order + accuracy` nearest ones, and one more to make an even number odd: centred inside,
    around the end on a periodic (`left`) axis, one-sided by the walls of the others. Products with a matrix of `n^2`
    numbers, computed in float64. An axis that a `Piece` cuts takes from the neighbouring pieces what the stencils of
    its points reach.

    **Raises:** `ValueError` for a Chebyshev axis or one there is not, an order below 0, an accuracy below 1, or fewer
    points than the stencil has, also on a piece.

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
    n, width = grid.whole.shape[axis], order + accuracy
    width += 1 - width % 2
    if n < width:
        raise ValueError(f"`grid` has {n} points on axis {axis}; order {order} to accuracy {accuracy} needs {width}.")
    line = Grid(n, grid.whole.lower[axis], grid.whole.upper[axis], grid.placement[axis])
    matrix = _matrix(n, order, width, grid.placement[axis] == "left") / line.spacing[0] ** order
    if name := grid.axis_names[axis]:
        return _in_pieces(u, matrix, width, axis, name, periodic=grid.placement[axis] == "left")
    return jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, u.dtype), u, (1, axis + 1)), 0, axis + 1)


def _in_pieces(u: Array, matrix: np.ndarray, width: int, axis: int, name: str, *, periodic: bool) -> Array:
    """This device's rows of the matrix, by their diagonals, times its piece and the halo they reach."""
    n, reach = len(matrix), width // 2 if periodic else width - 1
    columns = np.arange(n)[:, None] + np.arange(-reach, reach + 1)
    band = matrix[np.arange(n)[:, None], columns % n] * (periodic | (columns >= 0) & (columns < n))
    own = own_block(jnp.asarray(band, u.dtype), 0, name)
    around = halo_exchange(u, (name,), reach, "periodic" if periodic else "zero", first_axis=axis + 1)
    size, along = u.shape[axis + 1], [-1 if k == axis + 1 else 1 for k in range(u.ndim)]
    shifted = (lax.slice_in_dim(around, j, j + size, axis=axis + 1) for j in range(2 * reach + 1))
    return sum((own[:, j].reshape(along) * v for j, v in enumerate(shifted)), jnp.zeros_like(u))


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
